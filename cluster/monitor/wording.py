"""How figures are written in the report and in the progress display."""


def percent(share: float | None, digits: int = 1) -> str:
    return "not measured" if share is None else f"{100 * share:.{digits}f}%"


def duration(seconds: float) -> str:
    """Example: `duration(754)` is "12 min 34 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def signed_percent(change: float) -> str:
    """Example: `signed_percent(-0.025)` is "-2.5%"."""
    return f"{100 * change:+.1f}%"
