import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.monitor.metrics import TAGS, MetricsLog
from cluster.monitor.rows import read_metrics
from tests.cluster.small_run import ROOT


def test_rows_are_on_disk_at_once(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl", started=time.time() - 100)
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

    log = MetricsLog(tmp_path / "metrics.jsonl", started=0.0, gauge=Gauge)
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


PROGRAM = """
import socket, sys, time
from pathlib import Path
from cluster.monitor import metrics
from configs.load import load_config
tracker, steps, out = sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3])
def refuse(self, address):
    if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
        raise AssertionError(f"the tracker wants the network: {address}")
    return connect(self, address)
connect, socket.socket.connect = socket.socket.connect, refuse
metrics.WANDB_SECONDS = 1.0
config = load_config(Path("configs/miniature.yaml"), ["name=demo", f"tracker={tracker}"])
log = metrics.MetricsLog(
    out / "metrics.jsonl", started=time.time(), tracker=lambda: metrics.start_tracker(config, out / "tracker")
)
for step in steps:
    log.record("step", {"step": int(step), "loss": 0.125 * int(step)})
times = {"busy_s": 3.5, "waiting_s": 0.5, "counts": {"videos": 4}}
log.record("roles", {"role": "generator", "index": 0, **times})
kept = [{"file": "videos/before/000-a.mp4", "prompt": "a red square"}]
log.record("evaluation", {"phase": "before", "videos": 1, "kept": kept})
log.close()
"""


def _tracked(out: Path, tracker: str, steps: str, **env: str) -> str:
    """What a process said that has recorded these steps, the times of a role and a video of an evaluation."""
    video = out / "videos" / "before" / "000-a.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    video.write_bytes(b"a video")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKIO_", "WANDB_"))}
    command = [sys.executable, "-c", PROGRAM, tracker, steps, str(out)]
    done = subprocess.run(command, env=plain | env, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_local_tracker_gets_figures_and_videos_needs_no_network_and_goes_on_with_its_run(tmp_path: Path):
    _tracked(tmp_path, "trackio", "1")
    _tracked(tmp_path, "trackio", "2,3")  # the same command again, after a kill
    [database] = (tmp_path / "tracker").glob("*.db")
    rows = sqlite3.connect(database).execute("select run_name, metrics from metrics").fetchall()
    assert {run for run, _ in rows} == {"demo"}
    tracked = [json.loads(metrics) for _, metrics in rows]
    assert [row["step/loss"] for row in tracked if "step/loss" in row] == [0.125, 0.25, 0.375]
    roles = next(row for row in tracked if "roles/generator/0/busy_s" in row)
    assert roles["roles/generator/0/busy_s"] == 3.5 and roles["roles/generator/0/videos"] == 4.0
    evaluation = next(row for row in tracked if "evaluation/before/videos" in row)
    assert evaluation["videos/000-a"]["caption"] == "before: a red square"
    kept = [file.read_bytes() for file in (tmp_path / "tracker" / "media").rglob("*.mp4")]
    assert kept == [b"a video"] * 2  # the evaluation of each process


def test_weights_and_biases_gets_figures_and_videos_of_one_run_that_goes_on(tmp_path: Path):
    _tracked(tmp_path, "wandb", "1", WANDB_MODE="offline")
    _tracked(tmp_path, "wandb", "2", WANDB_MODE="offline")
    files = sorted((tmp_path / "tracker").rglob("run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1, "two pieces of one run, which a sync joins"
    for file, loss in zip(files, (b"0.125", b"0.25"), strict=True):
        written = file.read_bytes()
        assert all(each in written for each in (b"step/loss", loss, b"step/*", b"before: a red square"))
        [video] = file.parent.glob("files/media/videos/videos/000-a_*.mp4")
        assert video.read_bytes() == b"a video"


def test_weights_and_biases_out_of_reach_is_no_reason_to_stop(tmp_path: Path):
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    said = _tracked(tmp_path, "wandb", "1", **nowhere)
    assert f"wandb sync {tmp_path}/tracker/wandb/offline-run-*" in said
    [file] = (tmp_path / "tracker").glob("wandb/offline-run-*/run-*.wandb")
    assert b"step/loss" in file.read_bytes()


def test_a_tracker_that_fails_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    class Tracker:
        def log(self, figures: dict[str, float]) -> None:
            raise OSError("no space left on device")

    log = MetricsLog(tmp_path / "metrics.jsonl", started=time.time(), tracker=lambda: (Tracker(), None))
    for step in (1, 2):
        log.record("step", {"step": step})
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    assert capsys.readouterr().out.count("no space left on device") == 1


def test_the_balance_is_recorded_with_each_step_as_the_report_has_it(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl", started=time.time())

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
    MetricsLog(file, started=time.time()).record("phase", {"name": "start", "seconds": 2.5})
    assert [row["kind"] for row in read_metrics(file)] == ["step", "phase"]
