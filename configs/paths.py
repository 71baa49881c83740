"""Which keys of a config are paths, and the config with absolute ones."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

Config = TypeVar("Config", bound=BaseModel)


def absolute(config: Config, *keys: str, local: bool) -> Config:
    """The config with `out` as an absolute path of this machine, and every other path too if `local`.

    keys: dotted keys whose values are paths or None. On a cluster that is joined they stay as they are written: they
    have to mean the same on every node.
    """
    tree = config.model_dump()
    for key in ("out", *keys) if local else ("out",):
        section: Any = tree
        *sections, name = key.split(".")
        for part in sections:
            section = section[part]
        if section[name]:
            section[name] = str(Path(section[name]).expanduser().absolute())
    return type(config).model_validate(tree)
