"""How figures are written in the report and in the progress display."""

from buffers.figures import Figure


def percent(share: float | None, digits: int = 1) -> str:
    """Example: `percent(0.214)` is "21.4%"."""
    return "not measured" if share is None else f"{100 * share:.{digits}f}%"


def duration(seconds: float) -> str:
    """Example: `duration(754)` is "12 min 34 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def figure_value(figure: Figure | None) -> str:
    """A rate in percent, a mean with two digits, a difference with its sign: "-18.9 points"."""
    return "not measured" if figure is None else _number(figure, figure["value"]) + " points" * figure.get("points", 0)


def figure_interval(figure: Figure) -> str:
    """Example: "16.9% to 26.9%"."""
    return " to ".join(_number(figure, end) for end in figure["interval"])


def figure_unit(figure: Figure) -> str:
    """Example: "share of videos" for a rate of videos."""
    return f"share {figure['unit']}" if "count" in figure else figure["unit"]


def _number(figure: Figure, value: float) -> str:
    if "points" in figure:
        return f"{100 * value:+.1f}" if figure["points"] else f"{value:+.2f}"
    return percent(value) if "count" in figure else f"{value:.2f}"
