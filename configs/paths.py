"""Where the paths of a config and of the command line lie: `~` is the home folder, whatever the shell did with it."""

import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel

Config = TypeVar("Config", bound=BaseModel)

PathText = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path or a URI in a config. A shell leaves the `~` of `out=~/runs` as it is."""


def path(text: Path | str) -> Path:
    """The path that an argument of the command line names."""
    return Path(os.path.expanduser(text))


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
        if section and section[name]:  # a section may be left out
            section[name] = str(Path(section[name]).absolute())
    return type(config).model_validate(tree)
