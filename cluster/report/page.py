"""One self-contained HTML page: the shell, the style and nothing from the network; reports bring the body."""

import os
from html import escape
from pathlib import Path
from string import Template

PIXELATED_UP_TO = 128
"""Videos up to this width, pixels, are enlarged without smoothing."""


def write_page(file: Path, *, title: str, body: str, fills: dict[str, str], width: int, height: int) -> Path:
    """Fill `body`, a template of this folder, and put it on a page for videos of this size; whole or not at all."""
    small = width <= PIXELATED_UP_TO
    page = _template("page.html").substitute(
        title=escape(title),
        body=_template(body).substitute(fills, title=escape(title)),
        card_width="300px" if small else "480px",
        rendering="image-rendering: pixelated;" if small else "",
        aspect=f"{width} / {height}",
    )
    partial = file.with_suffix(".html.tmp")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, file)
    return file


def tile(label: str, value: str, note: str) -> str:
    """A figure with what it is above and what is to be known of it below; all three are HTML."""
    return f'<div class="tile"><span class="soft">{label}</span><b>{value}</b><span class="soft">{note}</span></div>'


def _template(name: str) -> Template:
    return Template((Path(__file__).with_name("templates") / name).read_text(encoding="utf-8"))
