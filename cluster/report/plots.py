"""Pictures for the report: matplotlib figures as inline SVG that read alike on light and on dark pages.

Lines and text that are not data take the page's own text colour; data colours are Okabe and Ito's colour-blind safe
set, and series also differ by dash or marker, or are labelled where they lie.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

VERMILLION, BLUE, GREEN, ORANGE, PURPLE = "#D55E00", "#2A8FD0", "#009E73", "#E69F00", "#CC79A7"
BEFORE, AFTER = VERMILLION, BLUE
INK = "#010203"
"""A colour that nothing else uses; it becomes `currentColor` in the SVG."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Line:
    """One series of a curve. `smooth`: draw the raw values faintly and their trailing mean boldly."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    smooth: bool = False


@dataclass(frozen=True)
class Whisker:
    """A measured value with its 95% interval."""

    label: str
    value: float
    low: float
    high: float
    color: str


def curves(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    percent: bool = False,
    reference: tuple[float, str] | None = None,
) -> str:
    """Series over steps or seconds. `reference`: a labelled horizontal line, such as chance."""
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = _figure(width=4.8, height=2.7)
        if reference is not None:
            axes.axhline(reference[0], color=INK, linewidth=0.9, linestyle=(0, (2, 3)), alpha=0.7, label=reference[1])
        for index, line in enumerate(lines):
            bold = line.y
            if line.smooth:
                axes.plot(line.x, line.y, color=line.color, linewidth=0.8, alpha=0.35)
                bold = trailing_mean(line.y, window=max(1, len(line.y) // 15))
            marker = "o" if len(line.x) <= 2 else None  # a line of one point would not be seen
            dash = DASHES[index % len(DASHES)]
            axes.plot(line.x, bold, color=line.color, linewidth=1.8, linestyle=dash, marker=marker, label=line.label)
        _finish(axes, title=title, x_label=x_label, y_label=y_label, percent=percent)
        _legend(axes, entries=len(lines) + (reference is not None))
        return _svg(figure, alt=f"{title}: {', '.join(line.label for line in lines)}")


def shares(title: str, x: Sequence[float], parts: Sequence[tuple[str, Sequence[float], str]], *, x_label: str) -> str:
    """Parts of a whole over time, stacked; every column of `parts` (label, shares, colour) sums to 1."""
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = _figure(width=4.8, height=2.7)
        labels, values, colors = zip(*parts, strict=True)
        # One row would have no width: draw it as a level from the start.
        points, columns = (x, values) if len(x) > 1 else ([0.0, *x], [[*part, *part] for part in values])
        axes.stackplot(points, *columns, labels=labels, colors=colors, alpha=0.85, linewidth=0)
        axes.margins(x=0)
        _finish(axes, title=title, x_label=x_label, y_label="share of verdicts", percent=True)
        axes.set_ylim(0, 1)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=8.5, reverse=True)
        return _svg(figure, alt=f"{title}: {', '.join(labels)}")


def whiskers(title: str, rows: Sequence[Whisker], *, x_label: str, percent: bool, from_zero: bool = True) -> str:
    """Values with their intervals, one row each, the first on top; each value is written beside its mark."""
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = _figure(width=4.8, height=0.95 + 0.42 * len(rows))
        places = range(len(rows) - 1, -1, -1)
        for place, row in zip(places, rows, strict=True):
            axes.plot([row.low, row.high], [place, place], color=row.color, linewidth=2.2, solid_capstyle="butt")
            for end in (row.low, row.high):
                axes.plot([end, end], [place - 0.16, place + 0.16], color=row.color, linewidth=1.6)
            axes.plot([row.value], [place], "o", color=row.color, markersize=7)
            text = f"{row.value:.1%}" if percent else f"{row.value:.2f}"
            axes.annotate(text, (row.value, place), (0, 9), textcoords="offset points", ha="center", weight="bold")
        axes.set_yticks(list(places), [row.label for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.25)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        highest = max(row.high for row in rows)
        axes.set_xlim(0 if from_zero else None, highest * 1.08 if highest > 0 else 1)
        _finish(axes, title=title, x_label=x_label, y_label="", percent_x=percent)
        return _svg(figure, alt=f"{title}, with 95% intervals: {', '.join(row.label for row in rows)}")


def busy_bars(title: str, rows: Sequence[tuple[str, float, float]]) -> str:
    """Busy and waiting seconds of every role (label, busy, waiting); the busy share is written on the bar."""
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure, axes = _figure(width=4.8, height=1.15 + 0.36 * len(rows))
        places = list(range(len(rows) - 1, -1, -1))
        busy, waiting = [row[1] for row in rows], [row[2] for row in rows]
        axes.barh(places, busy, color=BLUE, height=0.62, label="busy")
        axes.barh(places, waiting, left=busy, color=ORANGE, alpha=0.55, height=0.62, hatch="///", label="waiting")
        for place, working, idle in zip(places, busy, waiting, strict=True):
            share = working / (working + idle) if working + idle > 0 else 0.0
            axes.annotate(f"{share:.0%} busy", (working + idle, place), (5, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, [row[0] for row in rows])
        axes.set_xlim(0, max([b + w for b, w in zip(busy, waiting, strict=True)], default=1.0) * 1.22 or 1.0)
        axes.grid(axis="y", visible=False)
        _finish(axes, title=title, x_label="seconds", y_label="")
        _legend(axes, entries=2)
        return _svg(figure, alt=title)


def trailing_mean(values: Sequence[float], *, window: int) -> list[float]:
    """Mean of the last `window` values up to each place (fewer at the start), so that nothing looks ahead."""
    means = []
    for end in range(1, len(values) + 1):
        tail = values[max(0, end - window) : end]
        means.append(sum(tail) / len(tail))
    return means


def _figure(*, width: float, height: float) -> tuple[Figure, Axes]:
    """A figure outside pyplot's global list, so that nothing has to be closed."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _finish(
    axes: Axes, *, title: str, x_label: str, y_label: str, percent: bool = False, percent_x: bool = False
) -> None:
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if x_label == "learner step":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    if percent_x:
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))


def _percent(value: float, _position: int) -> str:
    return f"{100 * value:g}%"


def _legend(axes: Axes, *, entries: int) -> None:
    """Above the plot, where it never covers data; a single series is named by the axis already."""
    if entries > 1:
        axes.title.set_position((0.0, 1.0))
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 0.99), ncols=4, fontsize=8.5, borderaxespad=0.0)
        axes.set_title(axes.get_title(loc="left"), pad=20, loc="left")


def _svg(figure: Figure, *, alt: str) -> str:
    """The figure as an `<svg>` element without prolog, metadata or any address."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # inside HTML the parser knows them
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r' id="(figure|axes|matplotlib|patch|line2d|text|xtick|ytick|legend)[\w.]*"', "", text)
    text = text.replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1).strip()
