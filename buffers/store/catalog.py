"""Where each row of a store lies and what is known of it without reading it, as an SQLite file.

Everything in it can be made again from the store's commits. Nothing of it is loaded at opening, so a store of a million
pairs opens as fast as an empty one. It is updated after a commit, and catches up with the commits that it missed when
its process was killed.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from buffers.portions import portions
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
CREATE TABLE anchors (id TEXT PRIMARY KEY, segment INTEGER, row INTEGER, condition_id TEXT, video_id TEXT,
    positive INTEGER) WITHOUT ROWID;
CREATE TABLE verdicts (id TEXT PRIMARY KEY, segment INTEGER, row INTEGER, label INTEGER) WITHOUT ROWID;
CREATE TABLE pairs (number INTEGER PRIMARY KEY, id TEXT UNIQUE, segment INTEGER, row INTEGER, condition_id TEXT,
    chosen_id TEXT, rejected_id TEXT, policy_version INTEGER, source TEXT, bytes INTEGER, label INTEGER);
"""

_PAIR = "number, id, condition_id, source, policy_version, bytes"
_PAIRS = "FROM pairs LEFT JOIN verdicts ON verdicts.id = pairs.id LEFT JOIN conditionings c ON c.id = condition_id"
_ANCHORS = "FROM anchors a JOIN latents l ON l.id = video_id"
_COUNTS = {
    "pairs by source": "SELECT source, count(*) FROM pairs GROUP BY 1 ORDER BY 2 DESC",
    "pairs by domain": f"SELECT coalesce(c.domain, 'not said'), count(*) {_PAIRS} GROUP BY 1 ORDER BY 2 DESC",
    "pairs by verdict": f"SELECT coalesce(verdicts.label, pairs.label), count(*) {_PAIRS} GROUP BY 1 ORDER BY 1",
    "pairs by policy version": "SELECT policy_version, count(*) FROM pairs GROUP BY 1 ORDER BY 1",
    "anchors": "SELECT CASE positive WHEN 1 THEN 'positive' ELSE 'negative' END, count(*) FROM anchors GROUP BY 1",
    "videos by shape of latents": "SELECT shape, count(*) FROM latents GROUP BY 1 ORDER BY 2 DESC",
    "conditions": "SELECT coalesce(domain, 'not said'), count(*) FROM conditionings GROUP BY 1 ORDER BY 2 DESC",
}
_AT_ONCE = 500
"""Ids or pairs that one query asks for."""


@dataclass(frozen=True, slots=True)
class StoredPair:
    """A pair without its payload. `number` grows in the order in which pairs were added; `bytes`: of its latents."""

    number: int
    id: str
    condition_id: str
    source: Source
    policy_version: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StoredAnchor:
    """An anchor without its latents. `shape`: of them."""

    id: str
    condition_id: str
    video_id: str
    positive: bool
    shape: tuple[int, ...]


class Catalog:
    """One file, any number of threads of one process. Kinds are the tables of a store: pairs, latents, anchors ..."""

    def __init__(self, path: Path, *, anew: bool = True) -> None:
        """Opens the file. One that is missing, damaged or of another shape is made anew. If that is not wished, it is
        left as it is, and sqlite3.DatabaseError is raised. Raises OSError if the file cannot be made or written.
        """
        db = _understood(path)
        if db is None and not anew:
            raise sqlite3.DatabaseError(f"{path} is no catalog of this Apogee's shape")
        if db is None:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        # What a power cut takes from it is read again from the commits.
        self._db = db or Database(path, durable=False)
        if db is None:
            self.forget()

    @property
    def incomplete(self) -> bool:
        """Whether rows are missing because a file of the store was."""
        return bool(self._state("incomplete"))

    def forget(self) -> None:
        """Empties it, so that it is made anew."""
        with self._db.transaction() as db:
            for (name,) in self._db.rows("SELECT name FROM sqlite_master WHERE type = 'table'"):
                db.execute(f"DROP TABLE {name}")
            for statement in filter(str.strip, _TABLES.split(";")):
                db.execute(statement)
            db.execute("INSERT INTO state VALUES ('shape', ?), ('commits', 0)", (SHAPE,))

    @property
    def commits(self) -> int:
        """How many commits of the store it knows."""
        return self._state("commits")

    def add(
        self, commit: int, segments: Sequence[Segment], rows: Mapping[str, Sequence[tuple]], *, incomplete: bool = False
    ) -> None:
        """All or nothing: a commit's segments and, by kind, what is known of each of their rows, the id first.

        `incomplete`: a file of the commit is missing, and the next opening has to look again.
        """
        with self._db.transaction() as db:
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
        return [Segment(*row) for row in self._db.rows("SELECT name, kind, rows, bytes, sha256 FROM segments")]

    def ids(self, kind: str) -> list[str]:
        """All ids of a kind, in the order in which they were stored."""
        return [id_ for (id_,) in self._db.rows(f"SELECT id FROM {kind} ORDER BY segment, row")]

    def known(self, kind: str, ids: Iterable[str]) -> set[str]:
        """Those of the ids that are stored as this kind."""
        return {id_ for (id_,) in self._each(f"SELECT id FROM {kind} WHERE id IN", ids)}

    def places(self, kind: str, ids: Iterable[str]) -> dict[str, tuple[Segment, int]]:
        """Segment and row of each of the ids that is stored."""
        query = (
            "SELECT t.id, t.row, s.name, s.kind, s.rows, s.bytes, s.sha256 "
            f"FROM {kind} t JOIN segments s ON s.number = t.segment WHERE t.id IN"
        )
        return {id_: (Segment(*segment), row) for id_, row, *segment in self._each(query, ids)}

    def anchors(self, ids: Iterable[str]) -> list[StoredAnchor]:
        """Those of the anchors that are stored, in no order."""
        rows = self._each(f"SELECT a.id, condition_id, video_id, positive, shape {_ANCHORS} WHERE a.id IN", ids)
        return [StoredAnchor(id_, of, video, bool(positive), _shape(text)) for id_, of, video, positive, text in rows]

    def shapes_of_pairs(self, ids: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Of the latents of those of the pairs that are stored."""
        query = "SELECT p.id, shape FROM pairs p JOIN latents l ON l.id = chosen_id WHERE p.id IN"
        return {id_: _shape(text) for id_, text in self._each(query, ids)}

    def preferences(self) -> int:
        """How many pairs have a chosen video."""
        return self._db.value("SELECT count(*) FROM pairs WHERE source != 'unjudged'")

    def conditions_of_anchors(self) -> set[str]:
        """Ids of the conditions that have an anchor."""
        return {id_ for (id_,) in self._db.rows("SELECT DISTINCT condition_id FROM anchors")}

    def shapes_of_anchors(self) -> list[tuple[int, ...]]:
        """The shapes of anchors' latents, the commonest first."""
        rows = self._db.rows(f"SELECT shape {_ANCHORS} GROUP BY 1 ORDER BY count(*) DESC")
        return [_shape(text) for (text,) in rows]

    def pairs(self, *, after: int = 0) -> Iterator[StoredPair]:
        """Every pair whose number is above `after`, in the order in which they were added."""
        query = f"SELECT {_PAIR} FROM pairs WHERE number > ? ORDER BY number LIMIT {_AT_ONCE}"
        while rows := self._db.rows(query, (after,)):
            yield from (StoredPair(*row) for row in rows)
            after = rows[-1][0]

    def last_pair(self) -> int:
        """The number of the pair that was added last; 0 if there is none."""
        return self._db.value("SELECT max(number) FROM pairs")

    def count(self, kind: str) -> int:
        return self._db.value("SELECT sum(rows) FROM segments WHERE kind = ?", (kind,))

    def counts(self) -> dict[str, dict[Any, int]]:
        """What is counted, in words -> value -> how many have it. The verdict is a label, or None without a label."""
        return {what: dict(self._db.rows(query)) for what, query in _COUNTS.items()}

    def close(self) -> None:
        self._db.close()

    def _state(self, name: str) -> int:
        return self._db.value("SELECT value FROM state WHERE name = ?", (name,))

    def _each(self, query: str, ids: Iterable[str]) -> Iterator[tuple]:
        for some in portions(dict.fromkeys(ids), _AT_ONCE):
            yield from self._db.rows(f"{query} ({', '.join('?' * len(some))})", some)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(" x ")))


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
