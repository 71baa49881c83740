"""A gauge of Ray's. A module of its own: the process of the metrics loads it, and torch and diffusers cost it 12 s."""

from typing import Any

from ray.util.metrics import Gauge


def ray_gauge(name: str, tag_keys: tuple[str, ...]) -> Any:
    """A Ray gauge; Ray exports it as `ray_<name>`. Ray wants it made inside the metrics actor."""
    return Gauge(name, description=name.replace("_", " "), tag_keys=tag_keys)
