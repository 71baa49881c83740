"""Pictures for the pages: matplotlib figures as inline SVG that read alike on light and on dark pages.

The templates call these functions with a title first, and get an `<svg>` element, or nothing if there is no data.
`plots.mplstyle` has the style: text takes the page's own colour, and series differ by colour and by dash.
"""

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.style import context
from matplotlib.ticker import PercentFormatter

from buffers.figures import Figure
from cluster.monitor.rows import Row, recent_shares
from cluster.monitor.wording import figure_unit, figure_value

INK = "#010203"
"""The text colour of `plots.mplstyle`; it becomes `currentColor` in the SVG."""

STYLE = Path(__file__).with_suffix(".mplstyle")
HEIGHT = 2.7
"""Inches; the width is in the style."""

NOT_FOR_A_PAGE = re.compile(
    r'<metadata>.*?</metadata>| xmlns(:\w+)?="[^"]*"| (width|height)="[\d.]+pt"| id="[a-z]+\d*_[\w.]+"', re.DOTALL
)
"""Inside HTML the parser knows the namespaces, the page sets the size, and ids of several pictures would clash."""


def picture(draw: Callable[..., float]) -> Callable[..., Markup]:
    """`draw` draws on the axes and returns the picture's height in inches. The title comes first in a call."""

    @functools.wraps(draw)
    def drawn(title: str, *args: Any, **options: Any) -> Markup:
        # The salt gives every picture other ids. The figure is outside pyplot's list: nothing has to be closed.
        with context([STYLE, {"svg.hashsalt": title}]):
            canvas = Canvas()
            axes = canvas.subplots()
            canvas.set_figheight(draw(axes, *args, **options))
            if not axes.has_data():
                return Markup()
            axes.set_title(title)
            if len(axes.get_legend_handles_labels()[1]) > 1:
                canvas.legend(loc="outside lower left", ncols=2)
            out = io.StringIO()
            metadata = {"Title": title, "Date": None, "Creator": None, "Format": None, "Type": None}
            canvas.savefig(out, format="svg", metadata=metadata)
        text = out.getvalue()
        return Markup(NOT_FOR_A_PAGE.sub("", text[text.index("<svg") :]).replace(INK, "currentColor"))

    return drawn


@picture
def curves(
    axes: Axes,
    lines: Sequence[tuple[str, Sequence[Row], str]],
    *,
    y_label: str,
    x: str = "step",
    x_label: str = "learner step",
    smooth: bool = False,
    percent: bool = False,
    reference: tuple[float, str] | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> float:
    """Series over steps, seconds or something else: for each line its label, its rows, and the key of the value.

    A row without a value is left out. x: key of the place. smooth: the raw values are faint and their trailing mean is
    bold. reference: a labelled horizontal line, such as chance. marks: labelled vertical lines, such as the start of a
    stage.
    """
    for label, rows, key in lines:
        points = [(row[x], row[key]) for row in rows if row.get(key) is not None]
        places, raw = [place for place, _ in points], [value for _, value in points]
        values = trailing_mean(raw, window=max(1, len(raw) // 15)) if smooth else raw
        # A line of one point would not be seen without a marker.
        [line] = axes.plot(places, values, marker="o" if len(points) <= 2 else None, label=label) if points else [None]
        if line and smooth:
            axes.plot(places, raw, color=line.get_color(), linestyle="-", linewidth=0.8, alpha=0.35)
    if reference and axes.has_data():
        axes.axhline(reference[0], color=INK, linewidth=0.9, linestyle=(0, (2, 3)), alpha=0.7, label=reference[1])
    for place, label in marks:
        axes.axvline(place, color=INK, linewidth=0.9, linestyle="-", alpha=0.6)
        at_top = axes.get_xaxis_transform()
        axes.annotate(label, (place, 1), (3, -9), xycoords=at_top, textcoords="offset points", fontsize=8)
    if x == "step":
        axes.locator_params(axis="x", integer=True)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel=x_label, ylabel=y_label)
    return HEIGHT


@picture
def shares(axes: Axes, rows: list[Row], parts: Mapping[str, tuple[str, str]]) -> float:
    """Shares of the latest verdicts over time, stacked. parts: the key of each count -> its label and colour."""
    of_parts = zip(recent_shares(rows, list(parts)), parts.values(), strict=True)
    if present := [(share, *named) for share, named in of_parts if any(share)]:
        columns, labels, colors = zip(*present, strict=True)
        # The first row is what came in since the start.
        columns = [[column[0], *column] for column in columns]
        times = [0.0, *(row["time"] for row in rows)]
        axes.stackplot(times, *columns, labels=labels, colors=colors, alpha=0.85, linewidth=0)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="seconds since the start", ylabel="share of verdicts", ylim=(0, 1))
    return HEIGHT


@picture
def whiskers(axes: Axes, rows: Sequence[tuple[str, str, Figure | None]]) -> float:
    """Figures with their intervals (label, colour, figure), the first on top; each value is beside its mark."""
    measured = [(label, color, figure) for label, color, figure in rows if figure]
    for label, color, figure in measured:
        axes.plot(figure["interval"], [label, label], "|-", color=color, linewidth=2.2, markersize=9)
        axes.plot(figure["value"], label, "o", color=color, markersize=7)
        place = {"xytext": (0, 9), "textcoords": "offset points"}
        axes.annotate(figure_value(figure), (figure["value"], label), **place, ha="center", weight="bold")
    for _, _, figure in measured[:1]:
        axes.axvline(0.0, color=INK, linewidth=0.9, linestyle="-")
        label = "after less before" if "points" in figure else figure_unit(figure)
        axes.set(xlabel=f"{label}, 95% interval", ylim=(len(measured) - 0.4, -0.75))
        if figure.get("points", "count" in figure):
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    return 0.95 + 0.42 * len(measured)


@picture
def busy_bars(axes: Axes, roles: Sequence[Mapping[str, Any]]) -> float:
    """Busy and waiting seconds of every actor (`balance.role_figures`); the busy share is written on the bar."""
    labels = [f"{role['role']} {role['index']}" for role in roles]
    busy, waiting = [role["busy_s"] for role in roles], [role["waiting_s"] for role in roles]
    axes.barh(labels, busy, color="C0", height=0.62, label="busy")
    bars = axes.barh(labels, waiting, left=busy, color="C4", alpha=0.55, height=0.62, hatch="///", label="waiting")
    texts = [f"{role['busy_s'] / max(role['busy_s'] + role['waiting_s'], 1e-9):.0%} busy" for role in roles]
    axes.bar_label(bars, texts, padding=5)
    axes.margins(x=0.22)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    return 1.15 + 0.36 * len(roles)


def trailing_mean(values: Sequence[float], *, window: int) -> list[float]:
    """Mean of the last `window` values up to each place (fewer at the start), so that nothing looks ahead."""
    return [fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def pace_over_gpus(simulated: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Writes a picture: pairs an hour, and how busy each role is, against GPUs. simulated: `Simulated` as dicts."""
    canvas = Canvas(figsize=(9, 3.5), layout="constrained")
    left, right = canvas.subplots(1, 2)
    gpus, pairs = ([each[key] for each in simulated] for key in ("gpus", "pairs_an_hour"))
    scale = "log" if min(gpus) > 0 else "linear"
    left.plot(gpus, pairs, marker="o", linestyle="none")
    left.set(xlabel="GPUs", ylabel="pairs learned from an hour", xscale=scale, yscale="log")
    for role in ("generators", "rankers", "learner"):
        busy = [100 * each[f"{role}_busy"] for each in simulated]
        right.plot(gpus, busy, marker="o", linestyle="none", label=role)
    right.set(xlabel="GPUs", ylabel="busy, % of time", xscale=scale, ylim=(0, 105))
    right.legend()
    canvas.savefig(file, dpi=150)
