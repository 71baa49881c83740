"""`report.html` of the judge's fine-tuning: what each domain has learned, as far as that shows before it is scored."""

from pathlib import Path

from cluster.monitor.rows import of_kind, read_metrics, step_rows
from cluster.report.page import write_page
from configs.ranker import RankerTrainingConfig


def write_training_report(folder: Path, config: RankerTrainingConfig) -> Path:
    """Write the page from what is in `folder/metrics.jsonl` so far, and return its path."""
    rows = read_metrics(folder / "metrics.jsonl")
    steps = {domain: step_rows([row for row in rows if row.get("name") == domain]) for domain in config.domains}
    left_out = list(dict.fromkeys(row["why"] for row in of_kind(rows, "left_out")))
    return write_page(folder / "report.html", "judge_training.html", config=config, steps=steps, left_out=left_out)
