"""`apogee status` from a folder alone, and who drives a run: asked in other processes, as a user would."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.commands.status import status
from cluster.run_folder import RunFolder
from tests.cluster.fake_run import fake_run

DRIVES = "import sys, time; from cluster.run_folder import RunFolder\nwith RunFolder(sys.argv[1]).driven(): "


def test_a_run_in_the_middle_says_where_it_is_how_fast_and_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = fake_run(tmp_path / "run", partial=True)
    with run.metrics_file.open("a") as file:
        file.write('{"time": 160, "kind": "failure", "role": "generator", "index": 3, "error": "Xid 79\\nmore"}\n')
        file.write('{"time": 160, "kind": "late", "actors": ["generator 3"], "not_started": 1}\n')
        file.write('{"time": 161, "kind": "set_aside", "step": 1, "ids": ["pair-9"]}\n')
    (run.checkpoints / "1-online" / "00000001").mkdir(parents=True)
    (run.checkpoints / "1-online" / "00000001" / "state.safetensors").touch()
    text = status(run.path / "adapter")  # any place inside it
    for said in (
        "nobody drives it",
        "step 1 of 2, in stage 1 of 1 (online)",
        "saved at step 1",
        "generator 0: busy 45.0 s, waiting 5.0 s",
        "dropped disagreement     4",
        "loss                     0.7",
        "21.5% (16.9% to 26.9%)",
        "1 x generator",
        "generator 3, Xid 79\n",
        "set aside, nothing can be learned from them: pair-9",
    ):
        assert said in text, said
    assert "a step takes" not in text  # one step has no pace
    assert "not started" not in text  # nobody drives the run: of no actor is known how it is
    monkeypatch.setattr(RunFolder, "driver", lambda self: "process 7 on node-1")
    assert "not started: generator 3. There is no room" in status(run.path)


def test_a_run_that_has_not_begun_to_learn_and_no_run_at_all(tmp_path: Path):
    run = fake_run(tmp_path / "run")
    run.metrics_file.unlink()
    assert "step 0 of 2" in status(run.path) and "nothing has been saved yet" in status(run.path)
    with pytest.raises(FileNotFoundError, match="no run is there"):
        status(tmp_path)


def test_of_a_part_of_the_stages_the_steps_of_that_part_count(tmp_path: Path):
    run = fake_run(tmp_path / "run", partial=True)
    config = yaml.safe_load(run.config_file.read_text())
    config["stages"] = [{**config["stages"][0], "steps": steps} for steps in (100, 2, 3, 100)]
    run.config_file.write_text(yaml.safe_dump({**config, "first_stage": 1, "last_stage": 2}))
    assert "step 1 of 5" in status(run.path)


def test_a_second_driver_is_refused_by_name_and_one_that_was_killed_is_forgotten(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    first = subprocess.Popen(
        [sys.executable, "-c", DRIVES + "print(1, flush=True); time.sleep(60)", str(folder.path)],
        stdout=subprocess.PIPE,
    )
    assert first.stdout is not None and first.stdout.readline()
    assert f"process {first.pid} on " in (folder.driver() or "")
    with pytest.raises(BlockingIOError, match=f"process {first.pid} on .* drives this run"), folder.driven():
        pass
    first.kill()
    first.wait()
    assert folder.driver() is None
    with folder.driven():
        pass
