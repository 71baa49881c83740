"""People's judgements of two videos, as a manifest (`manifests.py`) beside the video files.

    {"a": "videos/1.mp4", "b": "videos/2.mp4", "domain": "human", "label": 3}
    {"a": "videos/3.mp4", "b": "videos/4.mp4", "domain": "general", "choice": "b"}

`label` is one of the four of the rubric, about the order a, b; `choice` says only which video is the better one;
`criterion`, where it is given, is what decided it in the annotator's words, and figures are given for each. Paths are
relative to the manifest's folder and cannot leave it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buffers.labels import LABELS_OF, choice_of
from buffers.people.columns import answer_of, check_names, domain_of, file_of, text_of
from buffers.people.manifests import manifest_folder, read_rows
from buffers.records import Domain

KEYS = ("a", "b", "domain", "label", "choice", "criterion")
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
        return choice_of(self.right[0]) == "a"


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
    check_names(row, KEYS)
    a, b = (file_of(row, name, folder) for name in ("a", "b"))
    if a.samefile(b):
        raise ValueError(f"a and b are the same file, {row['a']}")
    domain, criterion, answer = domain_of(row), text_of(row, "criterion"), answer_of(row)
    return LabelledPair(a, b, domain, LABELS_OF[answer] if isinstance(answer, str) else (answer,), criterion)
