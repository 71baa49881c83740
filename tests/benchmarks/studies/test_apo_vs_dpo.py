"""The study's arithmetic and its way back after a stop; no model is trained here."""

import json
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from benchmarks.studies import apo_vs_dpo
from benchmarks.studies.apo_vs_dpo import ARMS, Job, ranked
from benchmarks.studies.apo_vs_dpo_report import Study, outcome, roughness, spikes, write_report
from examples.miniature.prompts.make import split

VIDEOS = 64


def measured(rate: float, *, motion: float = 1.0, seed: int = 0, videos: int = VIDEOS) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    distorted = rng.permutation(np.arange(videos) < rate * videos).astype(int).tolist()
    return {"distorted": distorted, "motion": [motion] * videos, "obeyed": [1] * videos}


def run(
    arm: str, seed: int, rate: float, *, phase: str = "compare", motion: float = 1.0, **job: float
) -> dict[str, Any]:
    job = {"beta": 50.0, "learning_rate": 5e-4} | job
    losses = (0.69 - 0.001 * np.arange(60) + 0.01 * np.sin(np.arange(60))).tolist()
    return {
        "name": Job(phase, arm, seed, job["beta"], job["learning_rate"]).name,
        **{"phase": phase, "arm": arm, "seed": seed, **job, "steps": 60, "timesteps_per_step": 1, "loss": losses},
        "levels": [{"level": 9, "pairs": 4, "implicit_accuracy": 0.7, "margin": 0.1, "drift": 0.01, "grad_norm": 1.0}],
        "curve": [{"share": share, **measured(rate, seed=seed, videos=32)} for share in (1 / 3, 2 / 3)],
        "final": measured(rate, motion=motion, seed=seed),
        "drift": [0.001] * 60,
        "seconds": 100.0,
    }


def study_rows() -> list[dict[str, Any]]:
    """APO at a quarter distorted, every other arm at a half."""
    base = [{"phase": phase, "arm": "base", "final": measured(0.5)} for phase in ("choose", "compare")]
    runs = [run(arm, seed, 0.25 if arm == "apo" else 0.5) for seed in range(5) for arm in ARMS]
    return [*base, *runs, *(run(arm, 100, 0.5, phase="choose") for arm in ("apo", "dpo_uniform"))]


def test_a_spike_stands_out_from_what_was_just_before():
    rng = np.random.default_rng(0)
    flat = (0.69 + 0.01 * rng.standard_normal(200)).tolist()
    spiked = list(flat)
    for place in (50, 120):
        spiked[place] += 0.3
    assert spikes(spiked) == spikes(flat) + 2
    assert spikes(np.linspace(1, 0, 100).tolist()) == 0
    assert roughness(spiked) > 1.5 * roughness(flat)


def test_an_interval_is_over_prompts_and_seeds():
    """Seeds that agree on every video say no more than one; nor do videos of one prompt that agree."""
    prompts = len(split()[1])
    one = [index % prompts < 6 for index in range(2 * prompts)]  # six prompts of 24, both videos of each
    rows = study_rows()
    for row in rows:
        row["final"]["distorted"] = [int(each) for each in one]
    interval = Study(rows).mean("apo", "distorted")
    assert interval.value == 0.25
    # As of 24 independent values, 6 of them true: Wilson's with t of 23 (2.069), by hand 0.115 to 0.461.
    assert (interval.low, interval.high) == pytest.approx((0.115, 0.461), abs=0.01)


def test_differences_are_paired():
    rows = study_rows()
    study = Study(rows)
    same = study.difference("dpo_uniform", "dpo_logit_normal", "distorted")
    assert (same.value, same.low, same.high) == (0, 0, 0)  # equal seed by seed and video by video
    assert outcome(same) == "not decided at this size"
    gap = study.difference("apo", "dpo_uniform", "distorted")
    assert gap.value == -0.25 and outcome(gap) == "**held**"
    assert outcome(study.difference("dpo_uniform", "apo", "distorted")) == "**the opposite held**"
    assert study.difference("apo", "dpo_uniform", "distorted", 1 / 3).value == -0.25


def test_an_unfinished_study_counts_the_seeds_that_every_arm_has():
    rows = [row for row in study_rows() if not (row["arm"] == "apo_snap_anchor" and row["seed"] in (3, 4))]
    assert Study(rows).seeds == [0, 1, 2]


def test_the_lowest_rate_that_keeps_its_motion_and_obedience_is_chosen():
    rows: list[dict[str, Any]] = [{"phase": "choose", "arm": "base", "final": measured(0.5)}]
    for rate, distorted, motion, obeyed in (
        (4e-5, 0.4, 1.0, 1),
        (2e-4, 0.2, 0.95, 1),
        (5e-4, 0.2, 0.95, 1),  # alike: the smaller rate first
        (1e-3, 0.1, 0.5, 1),  # it holds the videos still
        (2e-3, 0.1, 1.0, 0),  # it does not obey
    ):
        row = run("apo", 100, distorted, phase="choose", learning_rate=rate, motion=motion)
        row["final"]["obeyed"] = [obeyed] * VIDEOS
        rows.append(row)
    assert [rate for _, rate in ranked(rows, "apo", (100,))] == [2e-4, 5e-4, 4e-5, 1e-3, 2e-3]
    assert ranked(rows, "apo", (100, 101)) == [] == ranked(rows, "dpo_uniform", (100,))


def test_a_run_that_is_done_is_not_done_again(tmp_path, monkeypatch):
    file = tmp_path / "runs.jsonl"
    monkeypatch.setattr(apo_vs_dpo, "_train", lambda job: run(job.arm, job.seed, 0.5))
    asked: list[Job] = []

    class Here:
        def submit(self, work: Any, job: Job) -> "Future[dict[str, Any]]":
            asked.append(job)
            future: Future[dict[str, Any]] = Future()
            future.set_result(work(job))
            return future

    jobs = [Job("compare", arm, 0, 50.0, 5e-4) for arm in ARMS]
    pool: Any = Here()
    apo_vs_dpo._do(pool, jobs[:3], file)
    apo_vs_dpo._do(pool, jobs, file)
    assert asked == jobs
    assert sorted(json.loads(line)["arm"] for line in file.read_text().splitlines()) == sorted(ARMS)


def test_the_report_says_what_held_and_draws_it(tmp_path):
    write_report(study_rows(), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| APO | 25.0% (" in text
    assert "(Table 1). | -25.0 (" in text and "**held**" in text
    for name in ("rates", "convergence", "losses", "levels"):
        assert f"({name}.svg)" in text and (tmp_path / f"{name}.svg").read_text().rstrip().endswith("</svg>")
    again = (tmp_path / "rates.svg").read_bytes()
    write_report(study_rows(), tmp_path)
    assert (tmp_path / "report.md").read_text() == text and len((tmp_path / "rates.svg").read_bytes()) == len(again)


@pytest.mark.parametrize("done", [2, 3])
def test_nothing_is_reported_before_there_is_a_run_of_apo(done, tmp_path, capsys):
    write_report(study_rows()[:done], tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert "nothing to report" in capsys.readouterr().out


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_has_the_same_budget(arm):
    timesteps = apo_vs_dpo.TimestepsConfig(**ARMS[arm])
    assert apo_vs_dpo.BUDGET % (apo_vs_dpo.PAIRS_PER_STEP * timesteps.count) == 0
