"""The report of made-up runs whose figures are known."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies import curriculum

KINDS = ("base", "online", "half_online", "offline", "distill", "distill_aware")


def run(seed: int, arm: str, distorted: dict[str, int], *, kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
    """Ten videos of ten prompts after every stage, so many of them distorted."""
    prompts = [f"prompt {n}" for n in range(10)]
    stages = {
        kind: {
            "prompt": prompts,
            "distorted": [n < distorted[kind] for n in range(10)],
            "motion": [1.5] * 10,
            "obeyed": [True] * 10,
            "passes": 10 if kind.startswith("distill") else 20,
            "seconds": 0.1 if kind.startswith("distill") else 0.3,
        }
        for kind in kinds
    }
    return {"seed": seed, "arm": arm, "minutes": 20.0, "stages": stages}


def test_the_report_has_the_rates_and_the_paired_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    counts = {"base": 8, "online": 4, "half_online": 4, "offline": 2, "distill": 3, "distill_aware": 1}
    rows = [run(seed, curriculum.WITH, counts) for seed in (0, 1)]
    rows += [run(1, curriculum.PLAIN, counts | {"offline": 3, "distill": 6}, kinds=KINDS[:5])]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("sys.argv", ["curriculum", "--out", str(tmp_path)])
    curriculum.main()
    lines = (tmp_path / "report.md").read_text().splitlines()
    aware = next(line for line in lines if line.startswith("| distill_aware | 10.0%"))
    assert "-20.0 points" in aware and "-70.0 points" in aware
    assert any(
        "20 and 10 transformer passes a video; seconds a video 0.300 and 0.100 (3.00 times)" in line for line in lines
    )
    less = next(line for line in lines if line.startswith("| with, less without"))
    assert "-10.0 points" in less and "-30.0 points" in less
    assert (tmp_path / "stages.svg").stat().st_size > 1000
