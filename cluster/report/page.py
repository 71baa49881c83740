"""One self-contained HTML page from a Jinja2 template of `templates/`; nothing of it comes from the network."""

import base64
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cluster.monitor import wording
from cluster.report import plots
from media.whole import write_whole

PIXELATED_UP_TO = 128
"""Videos up to this width, pixels, are enlarged without smoothing."""

SQUARE = {"width": 1, "height": 1}

FOLDER = PackageLoader("cluster.report")
TEMPLATES = Environment(loader=FOLDER, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
"""The templates write numbers with the functions of `monitor/wording.py` and draw with those of `plots.py`."""

_WRITTEN = (wording.percent, wording.duration, wording.figure_value, wording.figure_interval, wording.figure_unit)
TEMPLATES.filters |= {function.__name__: function for function in _WRITTEN}
TEMPLATES.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
_DRAWN = (plots.curves, plots.shares, plots.whiskers, plots.busy_bars)
TEMPLATES.globals |= {function.__name__: function for function in _DRAWN}


def write_page(file: Path, template: str, *, sampling: Mapping[str, Any] = SQUARE, **context: Any) -> Path:
    """Fill the template and write the page, for videos of this size, whole or not at all; returns its path."""
    width, height = (isqrt(sampling.get("pixels") or 0) or sampling[side] for side in ("width", "height"))
    video = {"width": width, "height": height, "is_small": width <= PIXELATED_UP_TO}
    write_whole(file, TEMPLATES.get_template(template).render(**context, video=video))
    return file
