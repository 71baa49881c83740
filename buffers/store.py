"""The pairs of one folder: sealed segments and a manifest. What `append` acknowledged survives anything but the disk.

    pairs-00000002.arrow          one row per pair
    conditionings-00000001.arrow  one row per condition, which many pairs share
    manifest.jsonl                one line per segment; a segment that is not listed does not count
    set_aside/                    what a killed writer left behind, never read, never deleted
    store.lock                    held by the one process that writes

Pairs never change here; how often each was used is the buffer's to know (`replay.py`).
"""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from buffers import arrow
from buffers.journal import Journal
from buffers.lock import take_lock
from buffers.records import Conditioning, Pair
from buffers.segments import SUFFIX, TEMPORARY, file_sha256, read_rows, sync_folder, write_segment

log = logging.getLogger(__name__)

MANIFEST, SET_ASIDE = "manifest.jsonl", "set_aside"
_SEGMENT_NAME = re.compile(r"(?:pairs|conditionings)-(\d+)\.arrow(?:\.tmp)?")


@dataclass(frozen=True, slots=True)
class StoredPair:
    """Where a pair lies, and what the buffer needs to know of it without reading it."""

    id: str
    condition_id: str
    policy_version: int
    segment: str
    row: int


@dataclass(frozen=True)
class Recovery:
    """What opening a folder found wrong; all empty after a clean stop.

    `set_aside`: file name -> why it was moved to `set_aside/`. `missing`: segments that the manifest lists and the
    folder lacks: acknowledged pairs that somebody deleted, or that were set aside before.
    `orphans`: ids of pairs whose conditioning is gone, which cannot be learned from.
    `manifest`: lines of the manifest that could not be read.
    """

    set_aside: dict[str, str]
    missing: tuple[str, ...]
    orphans: tuple[str, ...]
    manifest: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.set_aside or self.missing or self.orphans or self.manifest)


class PairStore:
    """An append-only store of pairs, each condition's conditioning kept once. One writer at a time.

    Not thread-safe for several `append`s at once; reading while one append runs is fine.

    Example: `PairStore(Path("runs/demo/buffer")).append([pair], [conditioning])`
    """

    def __init__(self, folder: Path) -> None:
        """Opens or makes the folder and recovers what is in it; `recovery` says what was wrong.

        Raises BlockingIOError if another process writes to the folder, ValueError if a newer Apogee wrote it
        (then nothing is touched), OSError if the folder cannot be written to.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(folder)
        self._pairs: dict[str, StoredPair] = {}
        self._conditionings: dict[str, tuple[str, int]] = {}
        self._checksums: dict[str, str] = {}
        self._intact: set[str] = set()
        try:
            self._manifest = Journal(folder / MANIFEST)
            self.recovery = self._recover()
            sync_folder(folder)
        except BaseException:
            os.close(self._lock)
            raise

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, pair_id: object) -> bool:
        return pair_id in self._pairs

    def stored(self) -> Iterable[StoredPair]:
        """Every pair that can be read, in the order in which they were added."""
        return self._pairs.values()

    def append(self, pairs: Sequence[Pair], conditionings: Iterable[Conditioning]) -> None:
        """Keeps the pairs and those conditionings that are new; all of it is on disk when this returns.

        Raises ValueError if a pair is there already or has no conditioning, OSError that names the folder if it
        cannot be written (disk full); then none of these pairs is kept and all earlier ones are.
        """
        new = {c.condition_id: c for c in conditionings if c.condition_id not in self._conditionings}
        self._check(pairs, new)
        number = self._next_number
        self._next_number += 1  # A name is used once, even if writing fails: what lies in set_aside/ stays unambiguous.
        lines = []
        try:
            if new:
                rows = (arrow.conditioning_row(c) for c in new.values())
                lines.append(self._seal("conditionings", number, rows, {"condition_ids": list(new)}))
            if pairs:
                facts = {
                    "ids": [p.id for p in pairs],
                    "condition_ids": [p.condition_id for p in pairs],
                    "policy_versions": [int(p.policy_version) for p in pairs],
                }
                lines.append(self._seal("pairs", number, map(arrow.pair_row, pairs), facts))
            if lines:
                sync_folder(self.folder)
                self._manifest.append(lines)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot store {len(pairs)} pairs ({error.strerror}); everything stored before is kept, these are not. "
                "Make room or fix the permissions of the folder, then resume",
                str(self.folder),
            ) from error
        for line in lines:
            self._index(line)
            self._intact.add(line["name"])

    def read(self, ids: Sequence[str]) -> list[Pair]:
        """The pairs with these ids, in this order; latents are read-only views of the mapped file.

        Raises KeyError for an id that is not stored, ValueError that names the segment if its bytes have changed.
        """
        stored = [self._pairs[id_] for id_ in ids]
        rows = self._rows([(s.segment, s.row) for s in stored], arrow.PAIRS)
        pairs = [arrow.row_pair(row) for row in rows]
        for entry, pair in zip(stored, pairs, strict=True):
            if pair.id != entry.id:
                raise ValueError(f"{self.folder / entry.segment} holds {pair.id} where {MANIFEST} says {entry.id}")
        return pairs

    def conditionings(self, condition_ids: Iterable[str]) -> dict[str, Conditioning]:
        """The conditionings of these conditions. Raises as `read` does."""
        wanted = list(dict.fromkeys(condition_ids))
        rows = self._rows([self._conditionings[id_] for id_ in wanted], arrow.CONDITIONINGS)
        return {c.condition_id: c for c in map(arrow.row_conditioning, rows)}

    def verify(self) -> list[str]:
        """Names of the segments whose bytes are not those that were written; reads all of them."""
        return [
            name
            for name, checksum in self._checksums.items()
            if not (self.folder / name).is_file() or file_sha256(self.folder / name) != checksum
        ]

    def close(self) -> None:
        """Lets another process write. What was read stays valid."""
        if self._lock >= 0:
            self._manifest.close()
            os.close(self._lock)
            self._lock = -1

    def _check(self, pairs: Sequence[Pair], new: dict[str, Conditioning]) -> None:
        seen: set[str] = set()
        for pair in pairs:
            if pair.id in self._pairs or pair.id in seen:
                raise ValueError(f"pair {pair.id} is in {self.folder} already")
            if pair.condition_id not in self._conditionings and pair.condition_id not in new:
                raise ValueError(
                    f"pair {pair.id} has no conditioning: {pair.condition_id} was neither stored nor given"
                )
            seen.add(pair.id)

    def _seal(self, kind: str, number: int, rows: Iterable[pa.RecordBatch], facts: dict) -> dict:
        """Writes one segment and returns its line for the manifest, without which it does not count."""
        path = self.folder / f"{kind}-{number:08d}{SUFFIX}"
        checksum = write_segment(path, rows, schema=arrow.PAIRS if kind == "pairs" else arrow.CONDITIONINGS)
        return {
            "schema": arrow.SCHEMA_VERSION,
            "name": path.name,
            "rows": len(facts["condition_ids"]),
            "bytes": path.stat().st_size,
            "sha256": checksum,
            **facts,
        }

    def _index(self, line: dict) -> None:
        name: str = line["name"]
        self._checksums[name] = line["sha256"]
        if name.startswith("conditionings"):
            self._conditionings.update({id_: (name, row) for row, id_ in enumerate(line["condition_ids"])})
            return
        columns = zip(line["ids"], line["condition_ids"], line["policy_versions"], strict=True)
        for row, (id_, condition_id, version) in enumerate(columns):
            self._pairs[id_] = StoredPair(id_, condition_id, version, name, row)

    def _rows(self, places: Sequence[tuple[str, int]], schema: pa.Schema) -> list[pa.RecordBatch]:
        by_segment: dict[str, list[int]] = {}
        for position, (segment, _) in enumerate(places):
            by_segment.setdefault(segment, []).append(position)
        found: dict[int, pa.RecordBatch] = {}
        for segment, positions in by_segment.items():
            path = self.folder / segment
            self._check_bytes(path)
            found.update(zip(positions, read_rows(path, [places[p][1] for p in positions], schema=schema), strict=True))
        return [found[position] for position in range(len(places))]

    def _check_bytes(self, path: Path) -> None:
        """Holds a segment of an earlier process to its checksum once, before its first row is handed out."""
        if path.name in self._intact:
            return
        if file_sha256(path) != self._checksums[path.name]:
            raise ValueError(
                f"{path} is damaged: its sha256 is not the one in {MANIFEST}. Its pairs are not used; restore the file "
                f"from a copy, or move it to {SET_ASIDE}/ and go on without its pairs"
            )
        self._intact.add(path.name)

    def _recover(self) -> Recovery:
        """Manifest and folder, brought into agreement: only segments that are listed and whole count."""
        lines = [line for line in self._manifest.rows if self._is_segment_line(line)]
        strange = [
            f"{MANIFEST}: {str(row)[:200]} describes no segment" for row in self._manifest.rows if row not in lines
        ]
        listed = {line["name"]: line for line in lines}
        present = {p.name for p in self.folder.iterdir() if _SEGMENT_NAME.fullmatch(p.name)}
        torn: dict[str, str] = {}
        for name in sorted(present):
            if name.endswith(TEMPORARY):
                torn[name] = "not finished when its writer stopped"
            elif name not in listed:
                torn[name] = f"not in {MANIFEST}: its writer stopped before it was acknowledged"
            elif (size := (self.folder / name).stat().st_size) != listed[name]["bytes"]:
                torn[name] = f"has {size} bytes instead of {listed[name]['bytes']}"
        self._set_aside(torn)
        for name, line in listed.items():
            if name in present and name not in torn:
                self._index(line)
        orphans = [p.id for p in self._pairs.values() if p.condition_id not in self._conditionings]
        for id_ in orphans:
            del self._pairs[id_]
        before = (self.folder / SET_ASIDE).iterdir() if (self.folder / SET_ASIDE).is_dir() else ()
        self._next_number = 1 + max(map(_number, [*listed, *present, *(p.name for p in before)]), default=0)
        recovery = Recovery(
            torn, tuple(n for n in listed if n not in present), tuple(orphans), (*self._manifest.damage, *strange)
        )
        if recovery:
            log.warning("%s was not closed cleanly: %s", self.folder, recovery)
        return recovery

    def _is_segment_line(self, line: dict) -> bool:
        if isinstance(line.get("schema"), int):
            arrow.check_version(line["schema"], where=str(self.folder / MANIFEST))
        name = line.get("name")
        facts = ("condition_ids", "ids", "policy_versions") if str(name).startswith("pairs-") else ("condition_ids",)
        return (
            isinstance(name, str)
            and _SEGMENT_NAME.fullmatch(name) is not None
            and {"rows", "bytes", "sha256", *facts} <= line.keys()
            and all(len(line[fact]) == line["rows"] for fact in facts)
        )

    def _set_aside(self, torn: Iterable[str]) -> None:
        for name in torn:
            aside = self.folder / SET_ASIDE
            aside.mkdir(exist_ok=True)
            os.replace(self.folder / name, aside / name)
            sync_folder(aside)


def _number(name: str) -> int:
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match.group(1)) if match else 0
