"""`report.html` of the judge's fine-tuning: did it learn, domain by domain; what can be seen before it is scored."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from cluster.monitor.rows import read_metrics, step_rows
from cluster.monitor.wording import percent
from cluster.report import plots
from cluster.report.page import tile, write_page
from configs.ranker import RankerTrainingConfig

LAST = 50
"""Steps that the tiles' figures are means of."""

COLORS = {"human": plots.BLUE, "general": plots.ORANGE}
CURVES = (
    ("Loss", "loss", "nats a question", False),
    ("Right by label", "accuracy", "share of questions", True),
    ("Right by video", "better_named", "share of questions", True),
    ("Mass on the four labels", "label_mass", "probability", True),
)

Rows = dict[str, list[dict[str, Any]]]


def write_training_report(folder: Path, config: RankerTrainingConfig) -> Path:
    """Write the page from `folder/metrics.jsonl`, whatever is in it so far, and return its path."""
    read = read_metrics(folder / "metrics.jsonl")
    rows = {domain: step_rows([row for row in read if row.get("name") == domain]) for domain in config.domains}
    slow = config.slow_motion
    mined = f"{percent(slow.share)} of them slow motion mined from these" if slow.share else "no slow motion mined"
    return write_page(
        folder / "report.html",
        title=f"Apogee: teaching the judge, {config.name}",
        body="judge_training.html",
        width=1,
        height=1,
        fills={
            "what_ran": escape(
                f"{config.path}, LoRA of rank {config.lora.rank} on its language model; {config.pairs_per_step} pairs "
                f"a step from {config.pairs}, both orders, {mined}."
            ),
            "tiles": "".join(_tiles(domain, found, config.steps) for domain, found in rows.items()),
            "plots": "".join(f"<div>{_curve(rows, *curve)}</div>" for curve in CURVES if any(rows.values())),
        },
    )


def _tiles(domain: str, rows: Sequence[dict[str, Any]], steps: int) -> str:
    if not rows:
        return tile(escape(domain), "?", "no step taken yet")
    last = rows[-LAST:]
    mean = {key: float(np.mean([row[key] for row in last])) for key in ("accuracy", "better_named", "loss", "step_s")}
    note = (
        f"by label {percent(mean['accuracy'])}, loss {mean['loss']:.3f}; step {rows[-1]['step']:.0f} of {steps}, "
        f"{mean['step_s']:.2f} s each"
    )
    return tile(f"{escape(domain)}: right by video", percent(mean["better_named"]), note)


def _curve(rows: Rows, title: str, key: str, unit: str, share: bool) -> str:
    lines = [
        plots.Line(domain, [row["step"] for row in found], [row[key] for row in found], COLORS[domain], smooth=True)
        for domain, found in rows.items()
        if found
    ]
    return plots.curves(title, lines, x_label="step", y_label=unit, percent=share)
