"""The pairs of a manifest whose video files are whole, known before anything is started."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from buffers.people.labelled_pairs import LabelledPair, read_labelled_pairs
from buffers.people.manifests import listed
from media.video_read import frame_times

READERS = 16
"""Threads that look at the files."""


def usable_pairs(manifest: Path, *, skip_bad_rows: bool) -> list[LabelledPair]:
    """The manifest's pairs in order. Rows and files that are left out are printed, each with its reason.

    Raises FileNotFoundError without a manifest, and ValueError if a row or a file is bad (unless `skip_bad_rows`)
    or none is left.
    """
    pairs, problems = read_labelled_pairs(manifest, skip_bad_rows=skip_bad_rows)
    bad = _bad_videos({path for pair in pairs for path in (pair.a, pair.b)})
    if bad and not skip_bad_rows:
        raise ValueError(listed(list(bad.values()), of="files"))
    for problem in (*problems, *bad.values()):
        print(f"left out: {problem}", flush=True)
    left = [pair for pair in pairs if not {pair.a, pair.b} & bad.keys()]
    if not left:
        raise ValueError(f"{manifest}: holds no usable pair")
    return left


def _bad_videos(paths: Iterable[Path]) -> dict[Path, str]:
    def problem(path: Path) -> tuple[Path, str | None]:
        try:
            frame_times(path)
        except (ValueError, OSError) as error:
            return path, str(error)
        return path, None

    with ThreadPoolExecutor(READERS) as readers:
        return {path: why for path, why in readers.map(problem, sorted(paths)) if why is not None}
