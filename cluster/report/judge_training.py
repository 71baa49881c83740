"""`report.html` of the judge's fine-tuning: what each domain has learned, as far as that shows before it is scored."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cluster.monitor.rows import Row, read_metrics, step_rows
from cluster.report import plots
from cluster.report.page import write_page
from configs.ranker import RankerTrainingConfig

LAST = 50
"""The tiles show means over this many last steps."""

COLORS = {"human": plots.BLUE, "general": plots.ORANGE}
CURVES = (
    ("Loss", "loss", "nats per question", False),
    ("Right by label", "accuracy", "share of questions", True),
    ("Right by video", "better_named", "share of questions", True),
    ("Mass on the four labels", "label_mass", "probability", True),
)


def write_training_report(folder: Path, config: RankerTrainingConfig) -> Path:
    """Write the page from what is in `folder/metrics.jsonl` so far, and return its path."""
    read = read_metrics(folder / "metrics.jsonl")
    rows = {domain: step_rows([row for row in read if row.get("name") == domain]) for domain in config.domains}
    pictures = []
    for title, key, y_label, is_share in CURVES if any(rows.values()) else ():
        lines = [
            plots.Line(domain, [row["step"] for row in steps], [row[key] for row in steps], COLORS[domain], smooth=True)
            for domain, steps in rows.items()
            if steps
        ]
        pictures.append(plots.curves(title, lines, x_label="step", y_label=y_label, percent=is_share))
    domains = {domain: _means(steps) for domain, steps in rows.items()}
    file = folder / "report.html"
    return write_page(file, "judge_training.html", width=1, height=1, config=config, domains=domains, pictures=pictures)


def _means(steps: Sequence[Row]) -> dict[str, Any]:
    if not steps:
        return {}
    keys = ("accuracy", "better_named", "loss", "step_s")
    return {key: fmean(row[key] for row in steps[-LAST:]) for key in keys} | {"last_step": steps[-1]["step"]}
