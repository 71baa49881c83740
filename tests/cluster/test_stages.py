"""All stages, and a run that is killed: real Ray, real Ray Train, the two miniatures; a function is the judge."""

import itertools
import json
import math
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from actors.prompts import read_prompts
from benchmarks.run_killed import SETTINGS, command, killed, left_alone
from buffers.store.pair_store import PairStore
from buffers.store.waiting import WAITING, WaitingPairs
from cluster import run_state
from cluster.monitor.rows import evaluation_rows, of_kind, read_metrics, step_rows
from cluster.run_folder import Sampled
from configs.load import load_config
from examples.miniature.world import draw
from policy.lora.adapters import LORA_FILE
from tests.cluster.test_people_pairs import people_store

pytestmark = [pytest.mark.ray, pytest.mark.slow]


STAGES = ("online", "half_online", "offline", "direct_align", "distill", "distill_aware")
FRAMED = Path("examples/miniature/prompts/framed_train.txt")
OF_FRAMED = (
    "model.path=examples/miniature/weights/framed_bundle",
    f"prompts.train={FRAMED}",
    "evaluation.prompts=examples/miniature/prompts/framed_held_out.txt",
)


@pytest.fixture(scope="module")
def framed_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four pairs and eight anchors of conditions with a first frame."""
    rng = np.random.default_rng(1)
    conditions = read_prompts(FRAMED, max_characters=200)[::36]
    contents = [condition.prompt.split() for condition in conditions]
    scenes = [
        (draw(color, subject, direction, rng), draw(color, subject, direction, rng, True))
        for _, color, subject, _, direction in contents
    ]
    config = load_config(Path("configs/miniature.yaml"), OF_FRAMED)
    return people_store(tmp_path_factory.mktemp("people"), config, conditions, scenes)


@pytest.fixture(scope="module")
def run_of_stages(framed_people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with all stages, on the image-to-video miniature with two experts.

    The first stage learns from pairs of all sources. A process of its own: a Ray of this one may belong to other tests.
    """
    folder = tmp_path_factory.mktemp("stages")
    settings = yaml.safe_load(Path("configs/miniature.yaml").read_text())
    stages: list[dict[str, Any]] = [{"kind": kind, "steps": 2, "buffer": {"max_uses": 40}} for kind in STAGES]
    stages[0]["buffer"] = {"mix": {"online": 0.5, "half_online": 0.25, "offline": 0.25}, "max_uses": 4}
    stages[3]["inversion"] = True
    stages[-1] |= {"learner": {"beta": 500.0, "max_loss": [0.01, 0.02]}, "steps": 40}
    reward = {"path": "examples/miniature/weights/reward", "words": "examples/miniature/prompts/control_words.yaml"}
    (folder / "stages.yaml").write_text(yaml.safe_dump(settings | {"stages": stages, "reward": reward}))
    of_people = [f"buffer.offline={framed_people}", f"buffer.anchors={framed_people}", "buffer.without_anchor=skip"]
    watched = ["evaluation.every=2", "evaluation.every_videos=2", "evaluation.best=motion"]
    overrides = [*SETTINGS, *OF_FRAMED, "learner.checkpoint_every=50", *of_people, *watched, f"out={folder / 'run'}"]
    run = [sys.executable, "-m", "cluster.cli", "run", str(folder / "stages.yaml"), *overrides]
    done = subprocess.run(run, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder / "run"


def test_each_stage_starts_from_what_the_one_before_left(run_of_stages: Path):
    rows = read_metrics(run_of_stages / "metrics.jsonl")
    steps = step_rows(rows)
    assert [row["step"] for row in steps] == list(range(1, 27))
    assert [row["stage"] for row in steps] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, *[5] * 16]
    first = {kind: steps[2 * number] for number, kind in enumerate(STAGES)}
    # A reward is learned from, at one level in each step, by the expert that has it.
    align = first.pop("direct_align")
    assert math.isfinite(align["reward"]) and align["drift"] == pytest.approx(0.0, abs=1e-8)
    assert [sum(row["experts"].values()) for row in steps[6:8]] == [1, 1]
    # In a distillation, the teacher is guided, and the student is the teacher without guidance.
    distill = first.pop("distill")
    assert distill["loss"] > 1e-3 and distill["drift"] == pytest.approx(0.0, abs=1e-8)
    # Policy and reference are the same model at the first step of a stage of preferences, whatever beta is.
    assert [row["loss"] for row in first.values()] == pytest.approx([math.log(2)] * 4, abs=1e-5)
    assert steps[11]["loss"] != pytest.approx(math.log(2), abs=1e-5)
    # Both experts learn, in every other stage.
    assert all(min(row["experts"].values()) > 0 for row in steps if row["stage"] != 3)

    *_, last = (run_state.load(folder) for folder in run_state.folders(run_of_stages / "checkpoints"))
    assert (last.position.stage, last.position.first_step) == (5, 10)
    folders = [run_of_stages / "adapters" / f"{number}-{kind}" for number, kind in enumerate(STAGES[:5], 1)]
    adapters = [load_file(folder / LORA_FILE) for folder in (*folders, run_of_stages / "adapter")]
    reference = {name.removeprefix("transformer."): tensor for name, tensor in last.learner.reference.items()}
    assert all(
        torch.equal(tensor, reference[name.removeprefix("transformer.")]) for name, tensor in adapters[4].items()
    )
    assert max(float(tensor.abs().max()) for name, tensor in adapters[0].items() if "lora_B" in name) > 1e-5
    for one, two in itertools.pairwise(adapters):
        assert any(not torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_every_stage_is_evaluated_and_who_is_not_needed_does_not_run(run_of_stages: Path):
    rows = read_metrics(run_of_stages / "metrics.jsonl")
    phases = ["before", *(f"stage-{number}-{kind}" for number, kind in enumerate(STAGES[:5], 1)), "after"]
    assert list(evaluation_rows(rows)) == phases
    summary = json.loads((run_of_stages / "summary.json").read_text())
    assert [stage["phase"] for stage in summary["by_stage"]] == phases
    assert "Stage by stage" in (run_of_stages / "report.html").read_text()
    begun = {row["stage"]: row["time"] for row in reversed(step_rows(rows))}
    asked = [row["time"] for row in of_kind(rows, "roles") if row["role"] == "ranker"]
    assert not [time for time in asked if time > begun[1] + 11], "a ranker ran in a stage that has nothing judged"


def test_a_batch_mixes_judged_pairs_anchors_and_peoples_pairs_exactly(run_of_stages: Path):
    waiting = WaitingPairs(run_of_stages / "buffer" / WAITING, seed=0, stage=5, max_uses=4)
    store = PairStore(run_of_stages / "buffer", write=False)
    own = {pair.id: pair.source for pair in store.catalog.pairs()}
    drawn = [waiting.drawn(step) for step in range(12)]
    sources = [Counter(own.get(id_, "offline") for id_ in draw.ids) for draw in drawn if draw]
    mixed = {"online": 2, "half-online": 1, "offline": 1}
    assert sources[:2] == [mixed] * 2
    alone = ("half-online", "offline", "unjudged", "unjudged", "offline")
    assert sources[2::2] == sources[3::2] == [{name: 4} for name in alone]
    waiting.close()
    store.close()


def test_a_stage_is_looked_at_on_the_way_and_one_that_is_stopped_hands_its_best_on(run_of_stages: Path):
    rows = read_metrics(run_of_stages / "metrics.jsonl")
    seen = {row["step"]: fmean(row["measured"]["motion"]) for row in of_kind(rows, "glance")}
    assert list(seen) == list(range(2, 27, 2))
    [warned] = [row for row in of_kind(rows, "guard") if row["figure"] == "loss"]
    # The mean of the first 16 steps is above both numbers.
    assert (warned["stage"], warned["step"], warned["stops"], warned["left"]) == (5, 26, True, 24)
    assert "learner.max_loss = [0.01, 0.02]" in warned["advice"]
    summary = json.loads((run_of_stages / "summary.json").read_text())
    assert summary["complete"] and summary["steps"]["done"] == summary["steps"]["planned"] == 26
    assert "was stopped" in (run_of_stages / "report.html").read_text()

    best = json.loads((run_of_stages / "adapters" / "6-distill_aware-best" / "best.json").read_text())
    assert best == {"step": max(range(12, 27, 2), key=lambda step: seen[step]), "value": max(list(seen.values())[5:])}
    handed, kept = (
        load_file(run_of_stages / place / LORA_FILE) for place in ("adapter", "adapters/6-distill_aware-best")
    )
    assert handed.keys() == kept.keys() and all(torch.equal(handed[name], kept[name]) for name in kept)
    last = run_state.newest(run_of_stages / "checkpoints")
    assert last is not None and last.position.stopped

    # How each is to be sampled is said beside it.
    said = {name: Sampled.read(run_of_stages / name) for name in ("adapter", "adapters/1-online")}
    assert {name: each.distilled for name, each in said.items() if each} == {
        "adapter": True,
        "adapters/1-online": False,
    }


def test_policies_are_compared_on_the_same_prompts_and_noises(run_of_stages: Path, tmp_path: Path):
    held_out = read_prompts(FRAMED.with_name("framed_held_out.txt"), max_characters=200)
    asked = [held_out[0], held_out[-1]]
    assert {condition.domain for condition in asked} == {"general", "human"}
    pictures = [Path(each.picture or "") for each in asked]
    for picture in pictures:
        shutil.copyfile(picture, tmp_path / picture.name)
    lines = [f"{each.domain}\t{each.prompt}\t{file.name}" for each, file in zip(asked, pictures, strict=True)]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    out, vbench = tmp_path / "out", tmp_path / "vbench"
    policies = ["base", str(run_of_stages), str(run_of_stages / "adapters" / "1-online")]
    evaluate = [sys.executable, "-m", "cluster.cli", "evaluate", *policies, "--prompts", str(tmp_path / "prompts.txt")]
    evaluate += ["--out", str(out), "--vbench", str(vbench)]
    done = subprocess.run(evaluate, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads((out / "comparison.json").read_text())
    base, student, online = found["policies"]
    assert [each["name"] for each in found["policies"]] == ["base", "run", "run-1-online"]
    assert (base["passes"], student["passes"], online["passes"]) == (20, 10, 20)  # guidance 2 in 10 steps, then none
    assert student["distilled"] and student["seconds"] < base["seconds"]
    assert found["videos"] == 6 and len(base["kept"]) == 6
    judged = [student["figures"][name]["value"] for name in ("win", "tie", "loss")]
    assert sum(figure["count"] for figure in judged) == 6 and judged[0]["against"] == "base"
    assert student["trained_by_this_judge"] and not base["trained_by_this_judge"]
    assert {"distorted", "motion", "obeyed"} <= base["figures"].keys() and "win" not in base["figures"]
    page = (out / "report.html").read_text()
    assert page.count("<video") == 18 and "no independent" in page
    names = {f"{condition.prompt}-{n}.mp4" for condition in asked for n in (0, 1, 2)}
    assert {file.name for file in (vbench / "run").iterdir()} == names


def without_a_meter(out: Path) -> list[str]:
    """A run of six steps whose evaluations are asked of its judge."""
    return command(out, 6, "evaluation.meter=null", "evaluation.videos=4")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The folder of such a run, which nobody disturbed, and its adapter."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return out, left_alone(without_a_meter(out), out)


def test_a_killed_run_that_goes_on_ends_with_the_same_adapter(alone: tuple[Path, dict[str, bytes]], tmp_path: Path):
    out = tmp_path / "killed"
    continued, at = killed(without_a_meter(out), out, kills=1, rng=random.Random(1))
    assert at[0] < 6, "it was killed before its end"
    # Not `continued == alone`: a failure would print megabytes.
    undisturbed = alone[1]
    names = undisturbed.keys() | continued.keys()
    assert [name for name in names if undisturbed.get(name) != continued.get(name)] == []


def test_without_a_meter_a_run_reports_what_its_judge_prefers(alone: tuple[Path, dict[str, bytes]]):
    """Also if all but the last evaluation was done by a process that was killed."""
    out, _ = alone
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
    again = subprocess.run(without_a_meter(out), capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, f"{again.stdout}\n{again.stderr}"
    assert evaluation_rows(read_metrics(out / "metrics.jsonl"))["after"]["measured"] == judged
    assert "the judge prefers" in (out / "report.html").read_text()
