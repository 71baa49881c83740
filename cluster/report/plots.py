"""Pictures for the report: matplotlib figures as inline SVG that read alike on light and on dark pages.

Lines and text that are not data take the page's own text colour. Data colours are Okabe and Ito's colour-blind safe
set. Series also differ by dash or marker, or are labelled in place.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import MaxNLocator, PercentFormatter

VERMILLION, BLUE, GREEN, ORANGE, PURPLE = "#D55E00", "#2A8FD0", "#009E73", "#E69F00", "#CC79A7"
BEFORE, AFTER = VERMILLION, BLUE
INK = "#010203"
"""The text colour of `plots.mplstyle`; it becomes `currentColor` in the SVG."""

STYLE = Path(__file__).with_suffix(".mplstyle")
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
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """Series over steps or seconds.

    reference: a labelled horizontal line, such as chance. marks: labelled vertical lines, such as the start of a stage.
    """

    def draw(axes: Axes) -> None:
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
        for x, label in marks:
            axes.axvline(x, color=INK, linewidth=0.9, alpha=0.6)
            place = {"xy": (x, 1), "xycoords": ("data", "axes fraction"), "xytext": (3, -9)}
            axes.annotate(label, **place, textcoords="offset points", fontsize=8)
        if x_label.endswith("step"):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        _legend(axes, entries=len(lines) + (reference is not None))

    return _picture(title, draw, height=2.7, labels=[line.label for line in lines])


def shares(
    title: str, x: Sequence[float], parts: Sequence[tuple[str, Sequence[float], str]], *, x_label: str
) -> Markup:
    """Parts of a whole over time, stacked; every column of `parts` (label, shares, colour) sums to 1."""
    labels, values, colors = zip(*parts, strict=True)

    def draw(axes: Axes) -> None:
        # One row would have no width: draw it as a level from the start.
        points, columns = (x, values) if len(x) > 1 else ([0.0, *x], [[*part, *part] for part in values])
        axes.stackplot(points, *columns, labels=labels, colors=colors, alpha=0.85, linewidth=0)
        axes.margins(x=0)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(x_label)
        axes.set_ylabel("share of verdicts")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), reverse=True)

    return _picture(title, draw, height=2.7, labels=labels)


def whiskers(title: str, rows: Sequence[Whisker], *, x_label: str, percent: bool) -> Markup:
    """Values with their intervals, one row each, the first on top; each value is written beside its mark."""

    def draw(axes: Axes) -> None:
        places = range(len(rows) - 1, -1, -1)
        for place, row in zip(places, rows, strict=True):
            axes.plot([row.low, row.high], [place, place], "|-", color=row.color, linewidth=2.2, markersize=9)
            axes.plot([row.value], [place], "o", color=row.color, markersize=7)
            text = f"{row.value:.1%}" if percent else f"{row.value:.2f}"
            axes.annotate(text, (row.value, place), (0, 9), textcoords="offset points", ha="center", weight="bold")
        _rows(axes, places, [row.label for row in rows])
        low, high = min(0.0, *(row.low for row in rows)), max(0.0, *(row.high for row in rows))
        axes.set_xlim(1.08 * low, 1.08 * high or 1.0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.6, len(rows) - 0.25)
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(x_label)

    return _picture(title, draw, height=0.95 + 0.42 * len(rows), labels=[row.label for row in rows])


def busy_bars(title: str, rows: Sequence[tuple[str, float, float]]) -> Markup:
    """Busy and waiting seconds of every role (label, busy, waiting); the busy share is written on the bar."""
    labels, busy, waiting = zip(*rows, strict=True)

    def draw(axes: Axes) -> None:
        places = range(len(rows) - 1, -1, -1)
        axes.barh(places, busy, color=BLUE, height=0.62, label="busy")
        bars = axes.barh(
            places, waiting, left=busy, color=ORANGE, alpha=0.55, height=0.62, hatch="///", label="waiting"
        )
        whole = [max(working + idle, 1e-9) for working, idle in zip(busy, waiting, strict=True)]
        texts = [f"{working / both:.0%} busy" for working, both in zip(busy, whole, strict=True)]
        axes.bar_label(bars, texts, padding=5)
        _rows(axes, places, labels)
        axes.set_xlim(0, 1.22 * max(whole))
        axes.set_xlabel("seconds")
        _legend(axes, entries=2)

    return _picture(title, draw, height=1.15 + 0.36 * len(rows), labels=labels)


def trailing_mean(values: Sequence[float], *, window: int) -> list[float]:
    """Mean of the last `window` values up to each place (fewer at the start), so that nothing looks ahead."""
    means = []
    for end in range(1, len(values) + 1):
        tail = values[max(0, end - window) : end]
        means.append(sum(tail) / len(tail))
    return means


def _rows(axes: Axes, places: Sequence[int], labels: Sequence[str]) -> None:
    axes.set_yticks(places, labels)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _legend(axes: Axes, *, entries: int) -> None:
    """Above the plot, where it never covers data. A single series is named by the axis already."""
    if entries > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 0.99), ncols=4, borderaxespad=0.0)
        axes.set_title(axes.get_title(loc="left"), pad=20)


def _picture(title: str, draw: Callable[[Axes], None], *, height: float, labels: Sequence[str]) -> Markup:
    """The figure as an `<svg>` element without prolog, metadata or any address.

    The figure is outside pyplot's global list, so that nothing has to be closed.
    """
    # Every picture has ids of its own: several are in one page.
    with context([STYLE, {"svg.hashsalt": title}]):
        figure = Figure(figsize=(4.8, height), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # inside HTML the parser knows them
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r' id="(figure|axes|matplotlib|patch|line2d|text|xtick|ytick|legend)[\w.]*"', "", text)
    alt = escape(f"{title}: {', '.join(labels)}")
    return Markup(text.replace(INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{alt}"', 1).strip())
