"""Functions of the user's own that a config names as `module:function`: a meter, a judge."""

import importlib
from collections.abc import Callable
from typing import Any


def user_function(path: str, *, key: str, example: str) -> Callable[..., Any]:
    """The function at `module:function`, imported.

    key: the config's key, for the error. Raises ValueError that names key and value if there is no such function.
    """
    module, colon, name = path.partition(":")
    try:
        function: Any = getattr(importlib.import_module(module), name) if colon and module and name else None
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{key} = {path}: there is no module {module}; write `package.module:function`, as it is imported from "
                "the working directory"
            ) from error
        raise ValueError(f"{key} = {path}: cannot be imported ({error})") from error
    if not callable(function):
        raise ValueError(f"{key} = {path}: expected `module:function`, e.g. {example}")
    return function
