"""Where each row of a store lies, as an SQLite file: what is in it can be made again from the store's commits.

Nothing of it is loaded at opening, so a store of a million pairs opens as fast as an empty one. It is updated after a
commit, and catches up with the commits that it missed when its process was killed.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from buffers.records import Source
from buffers.store.database import Database
from buffers.store.segments import Segment

SHAPE = 1
"""Goes up when the tables change: an older file is then made anew."""

_TABLES = """
CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (number INTEGER PRIMARY KEY, name TEXT, kind TEXT, rows INTEGER, bytes INTEGER, sha256 TEXT);
CREATE TABLE latents (id TEXT PRIMARY KEY, segment INTEGER, row INTEGER, bytes INTEGER, shape TEXT) WITHOUT ROWID;
CREATE TABLE conditionings (id TEXT PRIMARY KEY, segment INTEGER, row INTEGER, domain TEXT) WITHOUT ROWID;
CREATE TABLE anchors (
    id TEXT PRIMARY KEY, segment INTEGER, row INTEGER, condition_id TEXT, video_id TEXT, positive INTEGER
) WITHOUT ROWID;
CREATE INDEX anchors_of ON anchors (condition_id, positive, id);
CREATE TABLE verdicts (id TEXT PRIMARY KEY, segment INTEGER, row INTEGER, label INTEGER) WITHOUT ROWID;
CREATE TABLE pairs (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, segment INTEGER, row INTEGER, condition_id TEXT, chosen_id TEXT,
    rejected_id TEXT, policy_version INTEGER, source TEXT, bytes INTEGER, label INTEGER
);
"""


@dataclass(frozen=True, slots=True)
class StoredPair:
    """A pair without its payload. `number` grows in the order in which pairs were added; `bytes`: of its latents."""

    number: int
    id: str
    condition_id: str
    chosen_id: str
    rejected_id: str
    policy_version: int
    source: Source
    bytes: int


_PAIR = "number, id, condition_id, chosen_id, rejected_id, policy_version, source, bytes"
_BATCH = 500
"""Ids that one query asks for."""


class Catalog:
    """One file, any number of threads of one process."""

    def __init__(self, path: Path, *, anew: bool = True) -> None:
        """Opens it. One that is missing, damaged or of another shape is made anew; where that is not wished it is left
        as it is, and sqlite3.DatabaseError raised. Raises OSError if the file cannot be made or written.
        """
        self._lock = threading.RLock()
        there = _understood(path)
        if there is None and not anew:
            raise sqlite3.DatabaseError(f"{path} is no catalog of this Apogee's shape")
        if there is None:
            for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                name.unlink(missing_ok=True)
        # What a power cut takes from it is read again from the commits.
        self._db = there or Database(path, durable=False)
        if there is None:
            self.forget()

    @property
    def incomplete(self) -> bool:
        """Whether rows are missing because a file of the store was."""
        return bool(self._state("incomplete"))

    def forget(self) -> None:
        """Empties it, so that it is made anew."""
        with self._lock, self._db.transaction() as db:
            for (name,) in self._rows("SELECT name FROM sqlite_master WHERE type = 'table'"):
                db.execute(f"DROP TABLE {name}")
            for statement in filter(str.strip, _TABLES.split(";")):
                db.execute(statement)
            db.execute("INSERT INTO state VALUES ('shape', ?), ('commits', 0)", (SHAPE,))

    @property
    def commits(self) -> int:
        """How many commits of the store it knows."""
        return self._state("commits") or 0

    def add(
        self,
        commit: int,
        segments: Sequence[Segment],
        rows: Mapping[str, Sequence[tuple]],
        *,
        incomplete: bool = False,
    ) -> None:
        """All or nothing: a commit's segments and, by kind, what is known of each of their rows, the id first.

        `incomplete`: something of it is missing, and the next opening has to look again.
        """
        with self._lock, self._db.transaction() as db:
            if self.commits >= commit:  # Another process that reads the store was faster.
                return
            for segment in segments:
                number = db.execute("INSERT INTO segments VALUES (NULL, ?, ?, ?, ?, ?)", astuple(segment)).lastrowid
                places = [(row[0], number, place, *row[1:]) for place, row in enumerate(rows.get(segment.kind, ()))]
                if not places:
                    continue
                marks = ", ".join("?" * len(places[0]))
                verb = "INSERT OR REPLACE" if segment.kind == "verdicts" else "INSERT OR IGNORE"
                first = "NULL, " if segment.kind == "pairs" else ""
                db.executemany(f"{verb} INTO {segment.kind} VALUES ({first}{marks})", places)
            if incomplete:
                db.execute("INSERT OR REPLACE INTO state VALUES ('incomplete', 1)")
            db.execute("UPDATE state SET value = ? WHERE name = 'commits'", (commit,))

    def segments(self) -> list[Segment]:
        return [Segment(*row) for row in self._rows("SELECT name, kind, rows, bytes, sha256 FROM segments")]

    def known(self, kind: str, ids: Iterable[str]) -> set[str]:
        """Those of the ids that are there."""
        return {row[0] for row in self._chunked(f"SELECT id FROM {kind} WHERE id IN", ids)}

    def places(self, kind: str, ids: Iterable[str]) -> dict[str, tuple[Segment, int]]:
        """Segment and row of each id that is there."""
        query = (
            "SELECT t.id, t.row, s.name, s.kind, s.rows, s.bytes, s.sha256 "
            f"FROM {kind} t JOIN segments s ON s.number = t.segment WHERE t.id IN"
        )
        return {id_: (Segment(*segment), row) for id_, row, *segment in self._chunked(query, ids)}

    def pairs(self, ids: Iterable[str]) -> dict[str, StoredPair]:
        return {row[1]: StoredPair(*row) for row in self._chunked(f"SELECT {_PAIR} FROM pairs WHERE id IN", ids)}

    def pairs_after(self, number: int, count: int = _BATCH) -> list[StoredPair]:
        """The next pairs in the order in which they were added."""
        query = f"SELECT {_PAIR} FROM pairs WHERE number > ? ORDER BY number LIMIT ?"
        return [StoredPair(*row) for row in self._rows(query, (number, count))]

    def last_pair(self) -> int:
        """The number of the pair that was added last; 0 where there is none."""
        return self._rows("SELECT coalesce(max(number), 0) FROM pairs")[0][0]

    def count(self, kind: str) -> int:
        return self._rows(f"SELECT coalesce(sum(rows), 0) FROM segments WHERE kind = '{kind}'")[0][0]

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple]:
        """Any question about what is stored."""
        return self._rows(query, values)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _state(self, name: str) -> int | None:
        rows = self._rows("SELECT value FROM state WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple]:
        with self._lock:
            return self._db.rows(query, values)

    def _chunked(self, query: str, ids: Iterable[str]) -> Iterator[tuple]:
        wanted = list(dict.fromkeys(ids))
        for start in range(0, len(wanted), _BATCH):
            part = wanted[start : start + _BATCH]
            yield from self._rows(f"{query} ({', '.join('?' * len(part))})", part)


def _understood(path: Path) -> Database | None:
    """The file, opened, if it is whole and of the shape that is wanted."""
    if not path.is_file():
        return None
    with suppress(sqlite3.DatabaseError):
        db = Database(path, durable=False)
        with suppress(sqlite3.DatabaseError):
            if db.rows("SELECT value FROM state WHERE name = 'shape'") == [(SHAPE,)]:
                return db
        db.close()
    return None
