"""Several stages, and a run that is killed: real Ray, real Ray Train, the miniature; a function is the judge."""

import itertools
import json
import math
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from benchmarks.run_killed import SETTINGS, killed, left_alone
from buffers.store.pair_store import PairStore
from buffers.store.waiting import WAITING, WaitingPairs
from cluster import run_state
from cluster.monitor.rows import evaluation_rows, of_kind, read_metrics, step_rows
from media.whole import step_folders
from policy.lora.adapters import LORA_FILE
from tests.cluster.test_people_pairs import config as config  # what `people` is made for
from tests.cluster.test_people_pairs import people as people  # the fixture

pytestmark = [pytest.mark.ray, pytest.mark.slow]


STAGES = ("online", "distill", "distill_aware")


@pytest.fixture(scope="module")
def run_of_stages(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: a stage that learns from pairs of all sources, then a distillation and what follows it.

    A process of its own: a Ray of this one may belong to other tests.
    """
    folder = tmp_path_factory.mktemp("stages")
    settings = yaml.safe_load(Path("configs/miniature.yaml").read_text())
    stages: list[dict[str, Any]] = [{"kind": kind, "steps": 2} for kind in STAGES]
    stages[0]["buffer"] = {"mix": {"online": 0.5, "half_online": 0.25, "offline": 0.25}, "max_uses": 4}
    stages[2] |= {"buffer": {"max_uses": 4}, "learner": {"beta": 500.0}}
    (folder / "stages.yaml").write_text(yaml.safe_dump(settings | {"stages": stages}))
    of_people = [f"buffer.offline={people}", f"buffer.anchors={people}", "buffer.without_anchor=skip"]
    overrides = [*SETTINGS, "learner.checkpoint_every=50", *of_people, f"out={folder / 'run'}"]
    command = [sys.executable, "-m", "cluster.cli", "run", str(folder / "stages.yaml"), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder / "run"


def test_each_stage_starts_from_what_the_one_before_left(run_of_stages: Path):
    rows = read_metrics(run_of_stages / "metrics.jsonl")
    steps = step_rows(rows)
    assert [(row["step"], row["stage"]) for row in steps] == [(n + 1, n // 2) for n in range(6)]
    first, second, third = (steps[2 * number]["loss"] for number in range(3))
    # Policy and reference are the same model at the first step of a stage of preferences, whatever beta is.
    assert first == pytest.approx(math.log(2), abs=1e-5) and third == pytest.approx(math.log(2), abs=1e-5)
    assert steps[5]["loss"] != pytest.approx(math.log(2), abs=1e-5)
    # In a distillation, the teacher is guided, and the student is the teacher without guidance.
    assert second > 1e-3 and steps[2]["drift"] == pytest.approx(0.0, abs=1e-8)

    *_, last = (run_state.load(folder) for folder in step_folders(run_of_stages / "checkpoints"))
    assert (last.position.stage, last.position.first_step) == (2, 4)
    folders = [run_of_stages / "adapters" / name for name in ("1-online", "2-distill")]
    adapters = [load_file(folder / LORA_FILE) for folder in (*folders, run_of_stages / "adapter")]
    reference = {name.removeprefix("transformer."): tensor for name, tensor in last.learner.reference.items()}
    assert all(
        torch.equal(tensor, reference[name.removeprefix("transformer.")]) for name, tensor in adapters[1].items()
    )
    assert max(float(tensor.abs().max()) for name, tensor in adapters[0].items() if "lora_B" in name) > 1e-5
    for one, two in itertools.pairwise(adapters):
        assert any(not torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_every_stage_is_evaluated_and_who_is_not_needed_does_not_run(run_of_stages: Path):
    rows = read_metrics(run_of_stages / "metrics.jsonl")
    phases = ["before", "stage-1-online", "stage-2-distill", "after"]
    assert list(evaluation_rows(rows)) == phases
    summary = json.loads((run_of_stages / "summary.json").read_text())
    assert [stage["phase"] for stage in summary["by_stage"]] == phases
    assert "Stage by stage" in (run_of_stages / "report.html").read_text()
    begun = {row["stage"]: row["time"] for row in reversed(step_rows(rows))}
    asked = [row["time"] for row in of_kind(rows, "roles") if row["role"] == "ranker"]
    assert not [time for time in asked if time > begun[1] + 11], "a ranker ran in a stage that has nothing judged"


def test_a_batch_mixes_judged_pairs_anchors_and_peoples_pairs_exactly(run_of_stages: Path):
    waiting = WaitingPairs(run_of_stages / "buffer" / WAITING, seed=0, stage=2, max_uses=4)
    store = PairStore(run_of_stages / "buffer", write=False)
    own = {pair.id: pair.source for pair in store.catalog.pairs()}
    drawn = [waiting.drawn(step) for step in range(6)]
    sources = [Counter(own.get(id_, "offline") for id_ in draw.ids) for draw in drawn if draw]
    mixed = {"online": 2, "half-online": 1, "offline": 1}
    assert sources == [mixed] * 2 + [{"unjudged": 4}] * 2 + [{"offline": 4}] * 2
    waiting.close()
    store.close()


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
