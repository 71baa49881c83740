"""The report of made-up runs whose figures are known."""

import json
from pathlib import Path

import pytest

from benchmarks.studies import srpo


def test_a_hacked_reward_is_seen_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prompts = [f"prompt {n}" for n in range(10)]

    def columns(reward: float, distorted: int) -> dict:
        bad = [n < distorted for n in range(10)]
        return {
            "prompt": prompts,
            "reward": [reward] * 10,
            "distorted": bad,
            "motion": [1.5] * 10,
            "obeyed": [True] * 10,
        }

    auc = {"value": 0.75, "interval": [0.7, 0.8], "of": 10, "prompts": 10}
    rows = [
        {"arm": "hacked", "seed": seed, "minutes": 4.0, "auc": auc, "before": columns(1.0, 3), "after": columns(2.0, 6)}
        for seed in (1, 2)
    ]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("sys.argv", ["srpo", "--out", str(tmp_path)])
    srpo.main()
    text = (tmp_path / "report.md").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("| hacked")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:3] == ["1, 2", "0.75 (0.70 to 0.80)"]
    assert cells[3].startswith("+1.00") and cells[4].startswith("+30.0 points") and cells[5].startswith("+0.00")
    assert cells[7] == "60.0%, 60.0%" and "distorted 30.0%" in text
