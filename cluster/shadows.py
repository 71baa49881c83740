"""Files of the working directory that Python would import in place of ours, of its own or of a package.

`python -m` and Ray's workers look into the working directory first. This imports only what Python has loaded itself.
"""

import os
import sys
from importlib.machinery import PathFinder

OURS = ("actors", "buffers", "cluster", "configs", "learner", "media", "policy", "ranker")
NEVER_IMPORTED = ("benchmarks", "docs", "examples", "scripts", "test", "tests")


def refuse_shadows() -> None:
    """Raises SystemExit(2) after a sentence on stderr for each."""
    found = shadows(os.getcwd())
    for path, name in found:
        print(
            f"apogee: {path} would be imported in place of the module {name} that apogee needs; rename it, or start "
            "apogee in another folder",
            file=sys.stderr,
        )
    if found:
        raise SystemExit(2)


def shadows(folder: str) -> list[tuple[str, str]]:
    """Path and name of each file or package in the folder that hides a module which is found elsewhere."""
    here, root = (os.path.realpath(path) for path in (folder, os.path.join(os.path.dirname(__file__), os.pardir)))
    elsewhere = [path for path in sys.path if os.path.realpath(path) != here]
    found = []
    for entry in sorted(os.listdir(here)):
        path, name = os.path.join(here, entry), entry.partition(".")[0]
        if not (entry.endswith((".py", ".so")) or os.path.isfile(os.path.join(path, "__init__.py"))):
            continue
        if name in OURS:
            hides = here != root
        else:
            hides = name not in NEVER_IMPORTED and PathFinder.find_spec(name, elsewhere) is not None
        if hides:
            found.append((path, name))
    return found
