"""People's judgements of two videos, as a manifest (`manifests.py`) beside the video files.

    {"a": "videos/1.mp4", "b": "videos/2.mp4", "domain": "human", "label": 3}
    {"a": "videos/3.mp4", "b": "videos/4.mp4", "domain": "general", "choice": "b"}

`label` is one of the four of the rubric, about the order a, b; `choice` says only which video is the better one;
`criterion`, where it is given, is what decided it in the annotator's words, and figures are given for each. Paths are
relative to the manifest's folder and cannot leave it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from buffers.manifests import manifest_folder, read_rows
from buffers.records import Domain

KEYS = ("a", "b", "domain", "label", "choice", "criterion")
CHOICES = {"a": (1, 3), "b": (2, 4)}
SHOWN_PROBLEMS = 10
"""How many bad rows an error names; it says how many more there are."""


@dataclass(frozen=True)
class LabelledPair:
    """Two video files and which of the labels 1 to 4 are right: one where the label is known, (1, 3) or (2, 4) else.

    Example: LabelledPair(Path("1.mp4"), Path("2.mp4"), "human", (3,))
    """

    a: Path
    b: Path
    domain: Domain
    right: tuple[int, ...]
    criterion: str = ""

    @property
    def a_is_better(self) -> bool:
        return self.right[0] in CHOICES["a"]


def read_labelled_pairs(manifest: Path, *, skip_bad_rows: bool = False) -> tuple[list[LabelledPair], list[str]]:
    """The manifest's pairs in order, and what is wrong with the rows that were left out.

    Raises FileNotFoundError without a manifest, and ValueError that names the rows where some are bad (unless
    `skip_bad_rows`) or none is left.
    """
    pairs: list[LabelledPair] = []
    problems: list[str] = []
    folder = manifest_folder(manifest)
    for row in read_rows(manifest):
        try:
            if row.problem:
                raise ValueError(row.problem)
            pairs.append(_pair(row.values, folder))
        except ValueError as error:
            problems.append(f"{manifest}, row {row.number}: {error}")
    if problems and not skip_bad_rows:
        more = len(problems) - SHOWN_PROBLEMS
        raise ValueError("\n".join([*problems[:SHOWN_PROBLEMS], *([f"and {more} more bad rows"] if more > 0 else [])]))
    if not pairs:
        raise ValueError("\n".join([f"{manifest}: holds no usable pair", *problems[:SHOWN_PROBLEMS]]))
    return pairs, problems


def _pair(row: dict[str, Any], folder: Path) -> LabelledPair:
    unknown = sorted(row.keys() - set(KEYS))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
    a, b = (_video(row, name, folder) for name in ("a", "b"))
    if a.samefile(b):
        raise ValueError(f"a and b are the same file, {row['a']}")
    domain = row.get("domain")
    if domain not in get_args(Domain):
        raise ValueError(f"domain = {domain!r}; want {' or '.join(map(repr, get_args(Domain)))}")
    criterion = row.get("criterion", "")
    if not isinstance(criterion, str):
        raise ValueError(f"criterion = {criterion!r}; want a text")
    return LabelledPair(a, b, cast(Domain, domain), _right(row), criterion)


def _video(row: dict[str, Any], name: str, folder: Path) -> Path:
    written = row.get(name)
    if not isinstance(written, str) or not written:
        raise ValueError(f"{name} = {written!r}; want the path of a video file")
    path = (folder / written).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"{name} = {written!r} leads out of the manifest's folder")
    if not path.is_file():
        raise ValueError(f"{name} = {written!r}: no such file in {folder}")
    return path


def _right(row: dict[str, Any]) -> tuple[int, ...]:
    label, choice = row.get("label"), row.get("choice")
    if (label is None) == (choice is None):
        raise ValueError("want either a label (1 to 4) or a choice ('a' or 'b')")
    if label is not None:
        if type(label) is not int or not 1 <= label <= 4:
            raise ValueError(f"label = {label!r}; want 1, 2, 3 or 4")
        return (label,)
    if choice not in CHOICES:
        raise ValueError(f"choice = {choice!r}; want 'a' or 'b'")
    return CHOICES[choice]
