"""One self-contained HTML page from a Jinja2 template of `templates/`; nothing of it comes from the network."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluster.monitor.wording import duration, figure_interval, figure_unit, figure_value, percent, signed_percent
from media.whole import whole_file

PIXELATED_UP_TO = 128
"""Videos up to this width, pixels, are enlarged without smoothing."""

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "percent": percent,
    "signed_percent": signed_percent,
    "duration": duration,
    "figure_value": figure_value,
    "figure_interval": figure_interval,
    "figure_unit": figure_unit,
    "base64": lambda content: base64.b64encode(content).decode("ascii"),
}


def write_page(file: Path, template: str, *, width: int, height: int, **context: Any) -> Path:
    """Fill the template and write the page, for videos of this size, whole or not at all; returns its path."""
    video = {"width": width, "height": height, "is_small": width <= PIXELATED_UP_TO}
    with whole_file(file) as unfinished:
        unfinished.write_text(TEMPLATES.get_template(template).render(**context, video=video), encoding="utf-8")
    return file
