"""People's judgements of two videos, as a manifest (`manifests.py`) beside the video files.

    {"a": "videos/1.mp4", "b": "videos/2.mp4", "domain": "human", "label": 3}
    {"a": "videos/3.mp4", "b": "videos/4.mp4", "domain": "general", "choice": "b"}

`label` is one of the rubric's four, about the order a, b. `choice` says only which video is the better one. `criterion`
is optional: what decided it, in the annotator's words; figures are given for each criterion. Paths are relative to the
manifest's folder and cannot leave it.
"""

from dataclasses import dataclass
from pathlib import Path

from buffers.labels import LABELS_OF, choice_of
from buffers.people.manifests import SHOWN_PROBLEMS, listed
from buffers.people.rows import LabelledRow, each_row
from buffers.records import Domain


@dataclass(frozen=True)
class LabelledPair:
    """Two video files and which of the labels 1 to 4 are right: one if the label is known, else (1, 3) or (2, 4).

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

    Raises FileNotFoundError without a manifest, and ValueError that names the rows if some are bad (unless
    `skip_bad_rows`) or no row is left.
    """
    pairs: list[LabelledPair] = []
    problems: list[str] = []
    for number, row in each_row(manifest, LabelledRow):
        if isinstance(row, str):
            problems.append(f"{manifest}, row {number}: {row}")
        else:
            right = (row.label,) if row.label else LABELS_OF[row.choice]
            pairs.append(LabelledPair(row.a, row.b, row.domain, right, row.criterion))
    if problems and not skip_bad_rows:
        raise ValueError(listed(problems, of="rows"))
    if not pairs:
        raise ValueError("\n".join([f"{manifest}: holds no usable pair", *problems[:SHOWN_PROBLEMS]]))
    return pairs, problems
