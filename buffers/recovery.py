"""What happens when a store is opened: its catalog catches up with its commits, and torn files are set aside.

And `verify`, which looks at all that opening does not.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from buffers import arrow
from buffers.catalog import Catalog
from buffers.places import TEMPORARY, Place
from buffers.segments import SUFFIX, Segment, Segments

_FIRST_SCHEMA = "manifest.jsonl"
"""What stores of schema version 1 had in place of commits."""

_COMMIT = re.compile(r"commit-(\d{8,})\.json")


LARGE = ("latents", "conditionings")
"""Kinds whose commits tell what the catalog keeps of their rows: nobody should fetch terabytes to open a store."""


@dataclass(frozen=True)
class Commit:
    """What one append added. `rows`: of the kinds in LARGE, what the catalog keeps of each row (`Catalog.add`)."""

    segments: tuple[Segment, ...]
    rows: Mapping[str, Sequence[tuple]]


@dataclass(frozen=True)
class Recovery:
    """What opening a store found wrong; all empty after a clean stop.

    `set_aside`: name of a file -> why it was moved to `set_aside/`. `missing`: files of which commits tell and that are
    gone or damaged, as far as opening looked: it reads only what it has not seen before (`PairStore.verify` reads all).
    """

    set_aside: dict[str, str]
    missing: dict[str, str]

    def __bool__(self) -> bool:
        return bool(self.set_aside or self.missing)


def commit_name(number: int) -> str:
    return f"commit-{number:08d}.json"


def segment_name(kind: str, number: int) -> str:
    return f"{kind}-{number:08d}{SUFFIX}"


def recover(place: Place, catalog: Catalog, segments: Segments, *, write: bool) -> Recovery:
    """Raises ValueError, before anything is touched, if a newer Apogee added to the store, or one too old made it."""
    if place.size(_FIRST_SCHEMA) is not None:
        raise ValueError(
            f"{place} is a store of schema version 1, this Apogee reads {arrow.SCHEMA_VERSION}: go on with the run in "
            "the Apogee that began it, or give the new run another folder"
        )
    if not fits(place, catalog):
        catalog.forget()
    missing = catch_up(place, catalog, segments)
    return Recovery(_set_aside_torn(place, catalog.commits + 1) if write else {}, missing)


def catch_up(place: Place, catalog: Catalog, segments: Segments) -> dict[str, str]:
    """Adds the commits that the catalog does not know; returns which of their files are missing, and how."""
    missing: dict[str, str] = {}
    # With nothing known, all names are asked for once: a lost commit must not hide those behind it.
    numbers = _all_commits(place) if catalog.commits == 0 else _next_commits(place, catalog.commits)
    for number in numbers:
        for lost in range(catalog.commits + 1, number):
            missing[commit_name(lost)] = "is gone"
        commit = _read_commit(place, number)
        if isinstance(commit, str):
            missing[commit_name(number)] = commit
            commit = Commit((), {})
        rows: dict[str, Sequence[tuple]] = {}
        for segment in commit.segments:
            try:
                rows[segment.kind] = _rows(place, segments, segment, commit)
            except (FileNotFoundError, ValueError) as error:
                missing[segment.name] = str(error)
        catalog.add(number, commit.segments, rows)
    return missing


def verify(
    place: Place, catalog: Catalog, segments: Segments, *, known: Collection[str], read: Callable[[Segment], None]
) -> dict[str, str]:
    """Reads everything: name of a file -> what is wrong with it. `known`: names of files that are no segments."""
    wrong, ours = {}, set(known)
    for segment in catalog.segments():
        ours.add(segment.name)
        found = segments.checksum(segment)
        if found != segment.sha256:
            wrong[segment.name] = "is gone" if found is None else "does not hold the bytes that were written"
        read(segment)
    for name in map(commit_name, range(1, catalog.commits + 1)):
        ours.add(name)
        if place.size(name) is None:
            wrong[name] = "is gone"
    return wrong | {name: "is none of the store's" for name in place.names() if name not in ours}


def fits(place: Place, catalog: Catalog) -> bool:
    """Whether the catalog can be this store's (another store's may lie in its place), and lacks nothing it has seen."""
    seen = catalog.commits == 0 or place.size(commit_name(catalog.commits)) is not None
    return seen and not catalog.incomplete


def _all_commits(place: Place) -> list[int]:
    return sorted(int(match[1]) for name in place.names() if (match := _COMMIT.fullmatch(name)))


def _next_commits(place: Place, known: int) -> Iterable[int]:
    while place.size(commit_name(known + 1)) is not None:
        known += 1
        yield known


def _read_commit(place: Place, number: int) -> Commit | str:
    """A commit, or what is wrong with it."""
    name = commit_name(number)
    try:
        content = json.loads(place.read(name))
    except ValueError as error:
        return f"is no JSON ({error})"
    if isinstance(content, dict) and isinstance(content.get("schema"), int):
        arrow.check_version(content["schema"], where=f"{place}/{name}")
    try:
        found = tuple(Segment(**line) for line in content["segments"])
        large = {
            segment.kind: [tuple(row) for row in content["rows"][segment.kind]]
            for segment in found
            if segment.kind in LARGE
        }
    except (KeyError, TypeError) as error:
        return f"lists no segments ({error!r})"
    for segment in found:
        if segment.kind not in arrow.TABLES or segment.name != segment_name(segment.kind, number):
            return f"names {segment.name!r}, which is no segment of it"
        if segment.kind in LARGE and len(large[segment.kind]) != segment.rows:
            return f"tells of {len(large[segment.kind])} rows of {segment.name}, which holds {segment.rows}"
    return Commit(found, large)


def _rows(place: Place, segments: Segments, segment: Segment, commit: Commit) -> Sequence[tuple]:
    """What the catalog keeps of each row (`Catalog.add`); segments of large payloads are only looked for."""
    if segment.kind in LARGE:
        size = place.size(segment.name)
        if size is None:
            raise FileNotFoundError(f"{place}/{segment.name} is gone: what lay in it cannot be read")
        if size != segment.bytes:
            raise ValueError(
                f"{place}/{segment.name} is damaged: it has {size:,} bytes, {segment.bytes:,} were written"
            )
        return commit.rows[segment.kind]
    batches = segments.batches(segment, schema=arrow.TABLES[segment.kind])
    return [row for batch in batches for row in facts_of(segment.kind, batch)]


def facts_of(kind: str, batch: pa.RecordBatch) -> list[tuple]:
    """The id of each row and what else the catalog keeps of it, for kinds without large payloads."""
    names = {
        "pairs": ("id", "condition_id", "chosen_id", "rejected_id", "policy_version", "source", "bytes"),
        "anchors": ("id", "condition_id", "video_id", "positive"),
        "verdicts": ("id",),
    }[kind]
    columns = [batch.column(name).to_pylist() for name in names]
    if kind in ("pairs", "verdicts"):
        columns.append([verdict and verdict["label"] for verdict in batch.column("verdict").to_pylist()])
    return list(zip(*columns, strict=True))


def _set_aside_torn(place: Place, number: int) -> dict[str, str]:
    """Files of the append that was under way when the writer stopped. Their names are known: nothing is listed."""
    torn = {}
    for name in (*(segment_name(kind, number) for kind in arrow.TABLES), commit_name(number)):
        for found, why in (
            (name, "its writer stopped before it was acknowledged"),
            (name + TEMPORARY, "not finished when its writer stopped"),
        ):
            if place.size(found) is not None:
                torn[found] = f"{why}; now {place.set_aside(found)}"
    return torn
