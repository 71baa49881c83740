"""The README's map is the tree: every tracked .py file outside tests/ stands in it once, with a few words."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARKERS = re.compile(r"<!-- file map -->\n```\n(.*?)```\n<!-- /file map -->", re.DOTALL)
LINE = re.compile(r"^( *)(\S+)(?:  +(\S.*))?$")
MOST_WORDS = 6


def mapped() -> list[tuple[str, str]]:
    """Path and words of every file of the map, in its order. Folders end with a slash; what is in them is indented."""
    found = MARKERS.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found, "README.md has no <!-- file map --> with a code block <!-- /file map -->"
    files, folders = [], {-2: ""}
    for line in found[1].splitlines():
        match = LINE.match(line)
        assert match, f"a line of the map is not `name  words`: {line!r}"
        depth, name, words = len(match[1]), match[2], match[3] or ""
        path = folders[depth - 2] + name
        if name.endswith("/"):
            folders[depth] = path
        else:
            files.append((path, words))
    return files


def tracked() -> set[str]:
    """Every tracked Python file outside tests/ that says something (package markers are empty)."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {
        path
        for path in listed.splitlines()
        if not path.startswith("tests/") and (ROOT / path).is_file() and (ROOT / path).stat().st_size
    }


def test_the_file_map_is_the_tree() -> None:
    paths = [path for path, _ in mapped()]
    assert len(paths) == len(set(paths)), "a file stands twice in the map"
    assert set(paths) - tracked() == set(), "the map names files that are not in the tree"
    assert tracked() - set(paths) == set(), "the map leaves out files of the tree"


def test_each_file_has_a_few_words() -> None:
    wordy = [path for path, words in mapped() if not 1 < len(words.split()) <= MOST_WORDS]
    assert not wordy, f"two to {MOST_WORDS} words each"
