"""Two stages, and a run that is killed: real Ray, real Ray Train, the miniature; a function is the judge."""

import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.run_killed import SETTINGS, killed, left_alone
from cluster import run_state
from cluster.monitor.rows import evaluation_rows, of_kind, read_metrics, step_rows
from media.whole import step_folders
from tests.cluster.test_people_pairs import config as config  # what `people` is made for
from tests.cluster.test_people_pairs import people as people  # the fixture

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_second_stage_starts_from_the_first_ones_adapter_and_learns_from_people(people: Path, tmp_path: Path):
    file, out = tmp_path / "two.yaml", tmp_path / "run"
    settings = yaml.safe_load(Path("configs/miniature.yaml").read_text())
    settings["stages"] = [
        {"kind": "online", "steps": 2},
        {"kind": "offline", "steps": 2, "buffer": {"max_uses": 2}, "learner": {"beta": 500.0}},
    ]
    file.write_text(yaml.safe_dump(settings))
    overrides = [*SETTINGS, "learner.checkpoint_every=50", f"buffer.offline={people}", f"out={out}"]
    # A process of its own: a Ray of this process may belong to other tests.
    command = [sys.executable, "-m", "cluster.cli", "run", str(file), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    rows = read_metrics(out / "metrics.jsonl")
    steps = step_rows(rows)
    assert [(row["step"], row["stage"]) for row in steps] == [(1, 0), (2, 0), (3, 1), (4, 1)]
    # The first step of each stage: policy and reference are the same model, whatever beta is.
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[2]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[3]["loss"] != pytest.approx(math.log(2), abs=1e-5)
    assert set(evaluation_rows(rows)) == {"before", "after"}

    first, second = (run_state.load(folder) for folder in step_folders(out / "checkpoints")[-2:])
    left = first.learner.adapter
    assert max(float(tensor.abs().max()) for name, tensor in left.items() if "lora_B" in name) > 1e-5  # not the base
    assert not first.learner.reference
    assert second.position.first_step == 2
    assert all(torch.equal(tensor, left[name]) for name, tensor in second.learner.reference.items())
    offline = [row for row in of_kind(rows, "roles") if row["role"] == "ranker" and row["time"] > steps[2]["time"] + 11]
    assert not offline, "a ranker was asked for its times while the offline stage ran"


def test_a_killed_run_that_goes_on_ends_with_the_same_adapter(tmp_path: Path):
    alone = left_alone(tmp_path / "alone", steps=6)
    continued, at = killed(tmp_path / "killed", steps=6, kills=1, rng=random.Random(1))
    assert at[0] < 6, "it was killed before its end"
    # Not `continued == alone`: a failure would print megabytes.
    assert [name for name in alone.keys() | continued.keys() if alone.get(name) != continued.get(name)] == []


def test_without_a_meter_a_run_reports_what_its_judge_prefers(tmp_path: Path):
    """Also if all but the last evaluation was done by a process that was killed."""
    out = tmp_path / "run"
    settings = [*SETTINGS, "evaluation.meter=null", "evaluation.videos=4", "stages.0.steps=1", f"out={out}"]
    command = [sys.executable, "-m", "cluster.cli", "run", "configs/miniature.yaml", *settings]
    subprocess.run(command, check=True, capture_output=True, timeout=400)
    done = evaluation_rows(read_metrics(out / "metrics.jsonl"))
    assert (
        done["before"]["measured"] == {"prompt": [], "domain": []}
        and len(list((out / "videos" / "before").glob("*.mp4"))) == 4
    )
    judged = done["after"]["measured"]
    assert sum(sum(judged[name]) for name in ("win", "tie", "loss")) == len(judged["win"]) == 4

    rows = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(row for row in rows if '"phase": "after"' not in row))
    (out / "summary.json").unlink()  # as if it had been killed before the last evaluation
    (out / "report.html").unlink()
    again = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, f"{again.stdout}\n{again.stderr}"
    assert evaluation_rows(read_metrics(out / "metrics.jsonl"))["after"]["measured"] == judged
    assert "the judge prefers" in (out / "report.html").read_text()
