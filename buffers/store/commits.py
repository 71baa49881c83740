"""Commit files: all that an append added, without the payloads. A store is what its commits say.

    {"schema": 3, "content": {"segments": [...], "rows": {"pairs": [...], "latents": [...]}}, "sha256": "..."}

`rows` is what the catalog keeps of each row (`catalog.py`). So the catalog can be made again without reading a segment,
which may be terabytes away.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from typing import Any

from buffers.portions import portions
from buffers.store.arrow import SCHEMA_VERSION, TABLES, too_new
from buffers.store.places import Place
from buffers.store.segments import SUFFIX, Segment

READERS, AT_ONCE = 16, 64
"""Threads that read commits, and commits in memory meanwhile: an object store answers slowly, but many at once."""

_NAME = re.compile(r"commit-(\d{8,})\.json")


@dataclass(frozen=True)
class Commit:
    """`rows`: kind -> what the catalog keeps of each row, the id first. `missing`: name of a file -> what is wrong."""

    number: int
    segments: tuple[Segment, ...]
    rows: Mapping[str, Sequence[tuple]]
    missing: Mapping[str, str]


def commit_name(number: int) -> str:
    return f"commit-{number:08d}.json"


def segment_name(kind: str, number: int) -> str:
    return f"{kind}-{number:08d}{SUFFIX}"


def write_commit(place: Place, number: int, segments: Sequence[Segment], rows: Mapping[str, Sequence[tuple]]) -> None:
    """From now on, the segments that the commit names count. Raises OSError."""
    named = {segment.kind: rows[segment.kind] for segment in segments}
    content = {"segments": [asdict(segment) for segment in segments], "rows": named}
    with place.create(commit_name(number)) as file:
        written = {"schema": SCHEMA_VERSION, "content": content, "sha256": _checksum(content)}
        file.write(json.dumps(written).encode())
    place.settle()


def commits_after(place: Place, number: int) -> Iterator[Commit]:
    """The commits after that number, in order. One that is gone or damaged has no segments and is itself missing.

    Raises ValueError if a newer Apogee wrote one.
    """
    if number:
        numbers = takewhile(lambda following: place.size(commit_name(following)) is not None, count(number + 1))
    else:  # All names are asked for once: a lost commit must not hide those behind it.
        found = map(_NAME.fullmatch, place.names())
        numbers = range(1, max((int(match[1]) for match in found if match), default=0) + 1)
    with ThreadPoolExecutor(READERS) as readers:
        for some in portions(numbers, AT_ONCE):
            yield from readers.map(lambda number: _read(place, number), some)


def _read(place: Place, number: int) -> Commit:
    name = commit_name(number)
    try:
        file = json.loads(place.read(name))
        if file["schema"] <= SCHEMA_VERSION:
            return _understood(place, number, file["content"], file["sha256"])
    except FileNotFoundError:
        return Commit(number, (), {}, {name: "is gone"})
    except (ValueError, KeyError, TypeError) as error:
        return Commit(number, (), {}, {name: f"is damaged: {error}"})
    raise too_new(file["schema"], where=f"{place}/{name}")


def _understood(place: Place, number: int, content: dict[str, Any], checksum: str) -> Commit:
    if _checksum(content) != checksum:
        raise ValueError("its sha256 is not the one it was written with")
    segments = tuple(Segment(**line) for line in content["segments"])
    rows, missing = {}, {}
    for segment in segments:
        if segment.kind not in TABLES or segment.name != segment_name(segment.kind, number):
            raise ValueError(f"names {segment.name!r}, which is no segment of it")
        rows[segment.kind] = [tuple(row) for row in content["rows"][segment.kind]]
        size = place.size(segment.name)
        if size is None:
            missing[segment.name] = "is gone"
        elif size != segment.bytes:
            missing[segment.name] = f"is damaged: it has {size:,} bytes, {segment.bytes:,} were written"
    return Commit(number, segments, rows, missing)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
