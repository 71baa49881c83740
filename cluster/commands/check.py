"""What `apogee check` prints: the plan, and the files that it is made of. `templates/check.txt` has the words."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from cluster.checks.plan import plan
from cluster.checks.run import Checked
from cluster.evaluation import videos_made

TEMPLATES = Environment(
    loader=PackageLoader("cluster.commands"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
)


def describe(checked: Checked) -> str:
    """Whole lines. The plan comes first, whatever is missing: it is what the files are needed for."""
    config, figures, why = checked.config, checked.plan, ""
    try:
        figures = figures or plan(config)
    except ValueError as error:  # no bundle, and a size that Wan2.1 does not make either
        why = str(error)
    roles = figures.roles if figures else ()
    cpus, gpus = sum(need.count * need.cpus for need in roles), sum(need.count * need.gpus for need in roles)
    known = vars(checked) | {"plan": figures, "why": why, "cpus": cpus, "gpus": gpus}
    return TEMPLATES.get_template("check.txt").render(known, measured=videos_made(config))


def _size(count: int) -> str:
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"


TEMPLATES.filters |= {"commas": "{:,}".format, "number": "{:g}".format, "size": _size}
