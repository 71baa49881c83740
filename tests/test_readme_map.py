"""The README's file map is the tree: one line `- `path`: what it is` for each tracked .py file outside tests/."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARKERS = re.compile(r"<!-- file map -->\n(.*?)<!-- /file map -->", re.DOTALL)
LINE = re.compile(r"^- `([^`]+)`: (\S.*)$")


def mapped() -> list[str]:
    """The paths of the map, in its order. Headings and blank lines may stand between the lines."""
    found = MARKERS.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found, "README.md has no <!-- file map --> ... <!-- /file map -->"
    lines = [line for line in found[1].splitlines() if line.startswith("-")]
    matches = [(line, LINE.match(line)) for line in lines]
    assert not [line for line, match in matches if match is None], "a line of the map is not `- `path`: text`"
    return [match[1] for _, match in matches if match]


def tracked() -> set[str]:
    """Every tracked Python file outside tests/ that says something (package markers are empty)."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {
        path
        for path in listed.splitlines()
        if not path.startswith("tests/") and (ROOT / path).is_file() and (ROOT / path).stat().st_size
    }


def test_the_file_map_is_the_tree() -> None:
    paths = mapped()
    assert len(paths) == len(set(paths)), "a file stands twice in the map"
    assert set(paths) - tracked() == set(), "the map names files that are not in the tree"
    assert tracked() - set(paths) == set(), "the map leaves out files of the tree"
