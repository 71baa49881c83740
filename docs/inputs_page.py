"""Writes docs/inputs.md, what becomes of each kind of input: `python -m docs.inputs_page > docs/inputs.md`.

The rows are the tables of the tests, so each is held by a test.
"""

from collections.abc import Mapping

from tests.cluster.checks import test_bundles
from tests.ranker.judges import test_skeleton

HEAD = """# What becomes of each kind of input

Made by `python -m docs.inputs_page > docs/inputs.md` from the tables of the tests. What is refused is refused before
anything is started; `…` stands for the part of the sentence that names the file or the value.
"""

READ = "read"


def tables() -> dict[str, Mapping[str, str]]:
    """Title of a table -> kind of input -> `read`, or the words of the refusal."""
    bundles = dict.fromkeys(test_bundles.WHOLE, READ) | {
        kind: words for kind, (_, words) in test_bundles.BROKEN.items()
    }
    judges = {kind: words for kind, (_, words) in test_skeleton.BROKEN.items()}
    return {"Bundles (`apogee check`, and every command that loads one)": bundles, "Judges": judges}


def page() -> str:
    """Markdown: a table for each part."""
    parts = [HEAD]
    for title, rows in tables().items():
        parts += [f"## {title}\n", "| input | what becomes of it |", "|---|---|"]
        parts += [f"| {kind} | {_cell(words)} |" for kind, words in rows.items()] + [""]
    return "\n".join(parts).rstrip("\n") + "\n"


def _cell(words: str) -> str:
    return words if words == READ else f"refused: {words.replace('|', '/')}"


if __name__ == "__main__":
    print(page(), end="")
