import json
from pathlib import Path

from cluster.report.judge_training import write_training_report
from configs.ranker import RankerTrainingConfig


def config(folder: Path) -> RankerTrainingConfig:
    return RankerTrainingConfig(name="tiny & small", out=str(folder), path="judge", pairs="pairs.jsonl", steps=80)


def row(domain: str, step: int, **figures: float) -> str:
    figures = {"loss": 1.0, "accuracy": 0.5, "better_named": 0.5, "label_mass": 0.9, "step_s": 0.2, **figures}
    return json.dumps({"kind": "step", "name": domain, "step": step, **figures})


def test_the_page_says_how_far_each_domain_got(tmp_path: Path) -> None:
    rows = [row("human", step, better_named=0.5 if step <= 30 else 0.9) for step in range(1, 81)]
    rows += [row("human", 80, better_named=1.0)]  # repeated after a restart: counts once
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    page = write_training_report(tmp_path, config(tmp_path)).read_text()
    assert "tiny &amp; small" in page
    assert "<b>90.2%</b>" in page  # of the last 50 steps: 49 at 0.9 and one at 1
    assert "step 80 of 80, 0.20 s each" in page
    assert page.count("<svg") == 4
    assert "11.0% of domain human, 17.0% of domain general." in page
    assert "no step taken yet" in page  # the other domain


def test_a_training_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    page = write_training_report(tmp_path, config(tmp_path)).read_text()
    assert page.count("no step taken yet") == 2 and "<svg" not in page
