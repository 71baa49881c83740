"""People's judgements of two videos, as a manifest (`manifests.py`) beside the video files.

    {"a": "videos/1.mp4", "b": "videos/2.mp4", "domain": "human", "label": 3}
    {"a": "videos/3.mp4", "b": "videos/4.mp4", "domain": "general", "choice": "b"}

`label` is one of the rubric's four, about the order a, b. `choice` says only which video is the better one. Optional
are `criterion`, what decided it in the annotator's words (figures are given for each), and `prompt` (if all pairs have
one, intervals of figures are over prompts). Paths are relative to the manifest's folder and cannot leave it.
"""

from pathlib import Path

from buffers.people.manifests import SHOWN_PROBLEMS, listed
from buffers.people.rows import LabelledPair as LabelledPair
from buffers.people.rows import each_row


def read_labelled_pairs(manifest: Path, *, skip_bad_rows: bool = False) -> tuple[list[LabelledPair], list[str]]:
    """The manifest's pairs in order, and what is wrong with the rows that were left out.

    Raises FileNotFoundError without a manifest, and ValueError that names the rows if some are bad (unless
    `skip_bad_rows`) or no row is left.
    """
    rows = list(each_row(manifest, LabelledPair))
    pairs = [row for _, row in rows if not isinstance(row, str)]
    problems = [f"{manifest}, row {number}: {row}" for number, row in rows if isinstance(row, str)]
    if problems and not skip_bad_rows:
        raise ValueError(listed(problems, of="rows"))
    if not pairs:
        raise ValueError("\n".join([f"{manifest}: holds no usable pair", *problems[:SHOWN_PROBLEMS]]))
    return pairs, problems
