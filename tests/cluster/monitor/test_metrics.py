import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from cluster.monitor.metrics import TAGS, MetricsLog
from cluster.monitor.rows import read_metrics


def test_rows_are_on_disk_at_once(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl", run="r", started=time.time() - 100)
    log.record("step", {"step": 1, "loss": 0.5})
    log.record("phase", {"name": "start", "seconds": 2.5})
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert 100 <= first.pop("time") < 110
    assert first == {"kind": "step", "step": 1, "loss": 0.5}
    assert second["kind"] == "phase" and second["name"] == "start" and second["seconds"] == 2.5
    latest = log.latest("step")
    assert latest is not None and latest["loss"] == 0.5
    assert log.latest("verdicts") is None


def test_gauges_have_few_names_and_actors_of_one_role_do_not_overwrite_each_other(tmp_path: Path):
    made: dict[str, tuple[str, ...]] = {}
    values: dict[tuple[str, ...], float] = {}

    class Gauge:
        def __init__(self, name: str, tag_keys: tuple[str, ...]) -> None:
            self.name = name
            assert name not in made, "a gauge is made once"
            made[name] = tag_keys

        def set(self, value: float, tags: dict[str, str] | None = None) -> None:
            assert tags is not None and set(tags) == set(TAGS)
            values[self.name, *(tags[tag] for tag in TAGS)] = value

    log = MetricsLog(tmp_path / "metrics.jsonl", run="r", started=0.0, gauge=Gauge)
    log.record("step", {"step": 1, "loss": 0.5})
    log.record("step", {"step": 2, "loss": 0.25, "stage": 1})
    for index in (0, 1):
        times = {"busy_s": 1.0 + index, "waiting_s": 0.0, "counts": {"videos": 4}}
        log.record("roles", {"role": "generator", "index": index, **times})
    assert values["apogee_loss", "run", "", "", ""] == 0.5
    assert values["apogee_loss", "run", "", "1", ""] == 0.25
    assert values["apogee_videos", "generator", "0", "", ""] == 4.0
    assert [values["apogee_busy_s", "generator", index, "", ""] for index in ("0", "1")] == [1.0, 2.0]
    assert set(made) == {"apogee_step", "apogee_loss", "apogee_busy_s", "apogee_waiting_s", "apogee_videos"}
    assert set(made.values()) == {TAGS}


def test_the_local_tracker_gets_the_figures_and_needs_no_network(tmp_path: Path):
    program = f"""
import socket, time
from pathlib import Path
def refuse(*args): raise AssertionError(f"the tracker wants the network: {{args}}")
socket.socket.connect = refuse
from cluster.monitor.metrics import MetricsLog
out = Path({str(tmp_path)!r})
log = MetricsLog(out / "metrics.jsonl", run="demo", started=time.time(), tracker=out / "tracker")
log.record("step", {{"step": 1, "loss": 0.125}})
log.record("roles", {{"role": "generator", "index": 0, "busy_s": 3.5, "waiting_s": 0.5, "counts": {{"videos": 4}}}})
log.close()
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TRACKIO_")}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [database] = (tmp_path / "tracker").glob("*.db")
    rows = sqlite3.connect(database).execute("select run_name, metrics from metrics").fetchall()
    tracked = {name: value for run, metrics in rows for name, value in json.loads(metrics).items() if run == "demo"}
    assert tracked["step/loss"] == 0.125
    assert tracked["roles/generator/0/busy_s"] == 3.5
    assert tracked["roles/generator/0/videos"] == 4.0


def test_the_balance_is_recorded_with_each_step_as_the_report_has_it(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl", run="r", started=time.time())

    def times(role: str, index: int, busy: float, waiting: float) -> None:
        log.record("roles", {"role": role, "index": index, "busy_s": busy, "waiting_s": waiting, "counts": {}})

    times("generator", 0, 10.0, 0.0)
    times("learner", 0, 0.0, 5.0)
    assert log.latest("balance") is None  # nothing has grown yet
    times("generator", 0, 16.0, 4.0)
    times("generator", 1, 0.0, 0.0)
    times("generator", 1, 10.0, 0.0)
    times("generator", 0, 1.0, 0.0)  # a new one in its place
    times("learner", 0, 2.0, 13.0)
    balance = log.latest("balance")
    # Generators: 6 + 10 + 1 s busy and 4 waiting; the learner: 2 and 8.
    assert balance is not None and balance["balance"] == round(100 * (17 / 21 - 2 / 10), 1)


def test_a_line_that_was_torn_by_a_kill_is_not_written_onto(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"time": 1, "kind": "step", "step": 1}\n{"time": 2, "kind": "st')
    MetricsLog(file, run="r", started=time.time()).record("phase", {"name": "start", "seconds": 2.5})
    assert [row["kind"] for row in read_metrics(file)] == ["step", "phase"]
