"""Writes docs/inputs.md, what becomes of each kind of input: `python -m docs.inputs_page > docs/inputs.md`.

The rows are the tables of the tests, so each is held by a test.
"""

from collections.abc import Mapping

from tests import test_inputs
from tests.cluster.checks import test_bundles, test_run
from tests.cluster.commands.ranker import test_pair_files
from tests.cluster.on_ray import test_connect
from tests.configs import test_load
from tests.inputs import READ
from tests.ranker.judges import test_skeleton

HEAD = """# What becomes of each kind of input

Made by `python -m docs.inputs_page > docs/inputs.md` from the tables of the tests. `…` stands for the part of a
sentence that names the file or the value. A bundle or a judge is refused before anything is started. A bad video or row
is named with its file or line, and costs only itself if bad ones are to be skipped.
"""


def tables() -> dict[str, Mapping[str, str]]:
    """Title of a table -> kind of input -> what is read, or the words of the refusal."""
    broken = {kind: words for kind, (_, words) in test_bundles.BROKEN.items()}
    return {
        "Bundles": dict.fromkeys(test_bundles.WHOLE, READ) | broken,
        "Judges": {kind: words for kind, (_, words) in test_skeleton.BROKEN.items()},
        "Videos": {kind: words for kind, (_, words) in test_inputs.VIDEOS.items()},
        "Rows of a manifest": {kind: words for kind, (_, words) in test_inputs.ROWS.items()},
        "Pairs for a judge": {kind: words for kind, (_, words) in test_pair_files.PAIRS.items()},
        "Files of prompts": {kind: words for kind, (_, words) in test_run.PROMPTS.items()},
        "Values of a config": {f"`{override}`": f"= {value}: … {right}" for override, value, right in test_load.WRONG},
        "What RAY_ADDRESS names, with `cluster.address: auto`": {
            kind: words for kind, (_, words) in test_connect.ADDRESSES.items()
        },
    }


def page() -> str:
    """Markdown: a table for each part."""
    parts = [HEAD]
    for title, rows in tables().items():
        parts += [f"## {title}\n", "| input | what becomes of it |", "|---|---|"]
        parts += [f"| {kind} | {_cell(words)} |" for kind, words in rows.items()] + [""]
    return "\n".join(parts).rstrip("\n") + "\n"


def _cell(words: str) -> str:
    return words if words.startswith(READ) else f"refused: {words.replace('|', '/')}"


if __name__ == "__main__":
    print(page(), end="")
