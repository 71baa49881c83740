"""The pictures of a run's report: figures before and after, learning, the ranker, and the pace."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from buffers.figures import Figure
from buffers.labels import DROP_COUNTS, LABEL_COUNTS, MEANINGS
from cluster.monitor.balance import step_seconds
from cluster.monitor.rows import Row, of_kind, recent_shares, step_rows
from cluster.monitor.wording import figure_unit
from cluster.report import plots
from cluster.report.summary import PHASES, agreement, first_shown_share
from learner.noise_levels import LEVELS, by_noise_level

COLORS = {"before": plots.BEFORE, "after": plots.AFTER}
LABELS = dict(zip(LABEL_COUNTS, MEANINGS, strict=True))
FATES = {"kept": "kept"} | {key: key.removeprefix("dropped_").replace("_", " ") for key in DROP_COUNTS}
LABEL_COLORS = (plots.BLUE, "#8CC5EC", plots.GREEN, "#8FD3A8")
DROP_COLORS = (plots.ORANGE, plots.VERMILLION, plots.PURPLE, "#808080", "#8B1A1A", "#404040", "#B0B0B0", "#D0D0D0")

SHARE: dict[str, Any] = {"y_label": "share of pairs", "percent": True, "reference": (0.5, "chance")}
DRIFT: dict[str, Any] = {"y_label": "squared velocity difference"}
TIME = "seconds since the start"

LEARNING: tuple[tuple[str, dict[str, tuple[str, str]], dict[str, Any]], ...] = (
    # log 2 is the loss of a policy that prefers as its reference does.
    ("Loss", {"loss": ("loss", plots.BLUE)}, {"y_label": "nats", "reference": (math.log(2), "no preference (ln 2)")}),
    ("Implicit accuracy", {"implicit_accuracy": ("chosen preferred", plots.BLUE)}, SHARE),
    (
        "Implicit rewards",
        {
            "chosen_reward": ("chosen", plots.BLUE),
            "rejected_reward": ("rejected", plots.VERMILLION),
            "margin": ("margin", plots.PURPLE),
        },
        {"y_label": "nats", "reference": (0.0, "reference")},
    ),
    ("Drift from the reference", {"drift": ("drift", plots.PURPLE)}, DRIFT),
    ("Gradient norm before clipping", {"grad_norm": ("norm", plots.GREEN)}, {"y_label": "norm"}),
)
"""Title, lines (key of a step's row -> label and colour), and what `plots.curves` takes."""

BY_LEVEL: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    ("Implicit accuracy by noise level", "implicit_accuracy", "chosen preferred", plots.BLUE, SHARE),
    ("Gradient norm by noise level", "grad_norm", "norm", plots.GREEN, {"y_label": "norm of one timestep"}),
    ("Drift by noise level", "drift", "drift", plots.PURPLE, DRIFT),
)


def figures(summary: dict[str, Any]) -> list[Markup]:
    """A picture for each figure, before and after. Figures against the other side share one picture per unit."""
    pictures: dict[str, list[tuple[str, str, Figure]]] = {}
    for name, figure in summary["figures"].items():
        for phase in PHASES:
            if figure[phase]:
                title = f"After against before, {figure['unit']}" if figure["against"] else name.capitalize()
                label = name if figure["against"] else phase
                pictures.setdefault(title, []).append((label, COLORS[phase], figure[phase]))
    return [_whiskers(title, rows) for title, rows in pictures.items()]


def figures_by_domain(summary: dict[str, Any]) -> list[Markup]:
    """A picture for each figure, by domain."""
    phases = summary["by_domain"]
    domains = sorted({domain for by_domain in phases.values() for domain in by_domain})
    pictures = []
    for name in summary["figures"]:
        rows = [
            (f"{domain}, {phase}", COLORS[phase], phases[phase][domain][name])
            for domain in domains
            for phase in PHASES
            if name in phases.get(phase, {}).get(domain, {})
        ]
        if rows:
            pictures.append(_whiskers(f"{name.capitalize()} by domain", rows))
    return pictures


def learning(rows: list[Row], stages: Sequence[dict[str, Any]]) -> list[Markup]:
    """Curves of what the learner reports, over its steps and over the noise levels that it learned at."""
    steps = step_rows(rows)
    if not steps:
        return []
    pictures = [
        _over_steps(title, steps, lines, stages, smooth=True, **options)
        for title, lines, options in LEARNING
        if lines.keys() <= steps[-1].keys()
    ]
    by_level = by_noise_level(steps[len(steps) // 2 :])
    for title, key, label, color, options in BY_LEVEL:
        levels = [level for level in sorted(by_level) if key in by_level[level]]
        x, y = [(level + 0.5) / LEVELS for level in levels], [by_level[level][key] for level in levels]
        x_label = "noise level t / T, second half of the steps"
        if levels:
            pictures.append(plots.curves(title, [plots.Line(label, x, y, color)], x_label=x_label, **options))
    return pictures


def ranker(rows: list[Row], summary: dict[str, Any]) -> list[Markup]:
    """Verdict mix over time, what became of the pairs, agreement of the orders, share of the video shown first."""
    judged = [row for row in of_kind(rows, "verdicts") if row["judged"]]
    if not judged:
        return []
    # What was lost was never judged.
    fates = [
        {**row, "kept": row["judged"] + row.get("dropped_lost", 0) - sum(row.get(key, 0) for key in DROP_COUNTS)}
        for row in judged
    ]
    pictures = []
    for title, mix, names, colors in (
        ("Verdict mix, latest verdicts", judged, LABELS, LABEL_COLORS),
        ("Kept and dropped, latest verdicts", fates, FATES, (plots.BLUE, *DROP_COLORS)),
    ):
        parts = zip(names.values(), recent_shares(mix, list(names)), colors, strict=False)
        if present := [part for part in parts if any(part[1])]:
            pictures.append(plots.shares(title, [row["time"] for row in mix], present, x_label=TIME))
    orders = summary["verdicts"]["orders"]
    for title, share, reference in (
        ("Both orders agree", agreement, None),
        (
            "The video shown first is chosen",
            lambda row: first_shown_share(row, orders=orders),
            (0.5, "no position bias"),
        ),
    ):
        points = [(row["time"], value) for row in judged if (value := share(row)) is not None]
        if points:
            line = plots.Line(title, [time for time, _ in points], [value for _, value in points], plots.BLUE)
            options = {"y_label": "share, all so far", "percent": True, "reference": reference}
            pictures.append(plots.curves(title, [line], x_label=TIME, **options))
    return pictures


def pace(rows: list[Row], summary: dict[str, Any], stages: Sequence[dict[str, Any]]) -> list[Markup]:
    """Busy and waiting seconds of each role, staleness, seconds of a step."""
    pictures = []
    if summary["roles"]:
        bars = [(f"{role['role']} {role['index']}", role["busy_s"], role["waiting_s"]) for role in summary["roles"]]
        pictures.append(plots.busy_bars("Busy and waiting in the loop", bars))
    steps = step_rows(rows)
    if steps:
        behind = {"staleness_mean": ("mean", plots.BLUE), "staleness_max": ("largest", plots.ORANGE)}
        title, y_label = "Staleness of the pairs learned from", "policy versions behind"
        pictures.append(_over_steps(title, steps, behind, stages, y_label=y_label))
        timed = [{"step": step, "waited": waited, "worked": worked} for step, waited, worked in step_seconds(rows)]
        lines = {"worked": ("learning", plots.BLUE), "waited": ("waiting for pairs", plots.ORANGE)}
        pictures.append(_over_steps("Seconds of a learner step", timed, lines, stages, y_label="seconds"))
    return pictures


def _over_steps(
    title: str,
    steps: Sequence[Row],
    lines: dict[str, tuple[str, str]],
    stages: Sequence[dict[str, Any]],
    *,
    smooth: bool = False,
    **options: Any,
) -> Markup:
    """Curves over the steps of all stages, with a mark where each begins if there are several."""
    x = [row["step"] for row in steps]
    drawn = [plots.Line(label, x, [row[key] for row in steps], color, smooth) for key, (label, color) in lines.items()]
    ends = itertools.accumulate((stage["steps"] for stage in stages), initial=0)
    marks = [(end + 0.5, stage["kind"]) for end, stage in zip(ends, stages, strict=False) if end < x[-1]]
    return plots.curves(title, drawn, x_label="learner step", marks=marks if len(stages) > 1 else (), **options)


def _whiskers(title: str, rows: Sequence[tuple[str, str, Figure]]) -> Markup:
    marks = []
    for label, color, figure in rows:
        low, high = figure["interval"]
        marks.append(plots.Whisker(label, figure["value"], low, high, color))
    first = rows[0][2]
    return plots.whiskers(title, marks, x_label=f"{figure_unit(first)}, 95% interval", percent="count" in first)
