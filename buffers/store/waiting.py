"""The pairs that may still be learned from and the batches drawn of them, as an SQLite file: small facts that change.

A step gets as many pairs of each source as `Mix` says. Pairs that were used least often come first, then pairs of the
oldest policy version: to make a pair costs about four times its training, so no pair should expire unused. Chance
decides among equals, keyed by (seed, pair, uses). The order of arrival plays no part: the same pairs, the same batch.
A batch is on disk before a rank reads it, and stays the batch of that step.
"""

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from buffers.records import AGELESS, Pair, Slot, Source
from buffers.store.catalog import StoredPair
from buffers.store.database import Database

WAITING = "waiting.sqlite"
"""Its name in the folder of a run's own store."""

_TABLES = """
CREATE TABLE IF NOT EXISTS waiting (id TEXT PRIMARY KEY, source TEXT, policy_version INTEGER, uses INTEGER,
    chance INTEGER, bytes INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS next ON waiting (source, uses, policy_version, chance);
CREATE INDEX IF NOT EXISTS by_age ON waiting (policy_version);
CREATE TABLE IF NOT EXISTS sums (source TEXT PRIMARY KEY, pairs INTEGER, bytes INTEGER, drawn INTEGER);
CREATE TRIGGER IF NOT EXISTS more AFTER INSERT ON waiting BEGIN
    INSERT INTO sums VALUES (new.source, 1, new.bytes, 0)
        ON CONFLICT DO UPDATE SET pairs = pairs + 1, bytes = bytes + new.bytes;
END;
CREATE TRIGGER IF NOT EXISTS fewer AFTER DELETE ON waiting BEGIN
    UPDATE sums SET pairs = pairs - 1, bytes = bytes - old.bytes WHERE source = old.source;
END;
CREATE TABLE IF NOT EXISTS draws (step INTEGER PRIMARY KEY, version INTEGER, ids TEXT);
CREATE TABLE IF NOT EXISTS finished (source TEXT, number INTEGER, PRIMARY KEY (source, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Draw:
    """The batch of one step, as ids, "" for a pair that was set aside; `version`: the published policy version when it
    was drawn."""

    version: int
    ids: tuple[str, ...]

    @property
    def missing(self) -> int:
        return self.ids.count("")


class WaitingPairs:
    """One file, any number of threads of one process; nothing of it is loaded at opening."""

    def __init__(self, path: Path, *, seed: int, stage: int, max_uses: int) -> None:
        """Pairs that were used `max_uses` times already, in a run that allowed more, are dropped.

        If the stage is another one than before, no request of it is finished, its mix counts from zero, and people's
        own pairs are not there: they are added again, as if never used. Raises
        OSError, sqlite3.DatabaseError that names the file if it is damaged.
        """
        self._seed, self._max_uses = seed, max_uses
        self._db = Database(path, durable=True, tables=_TABLES)
        with self._db.transaction() as db:
            if self.state("stage") != stage:
                db.execute("DELETE FROM finished")
                db.execute("UPDATE sums SET drawn = 0")
                db.execute("DELETE FROM waiting WHERE source = 'offline'")
                _remember(db, {"stage": stage, "offline": 0})
            for source in get_args(Source):  # By source, because the index begins with it.
                db.execute("DELETE FROM waiting WHERE source = ? AND uses >= ?", (source, max_uses))

    def add(self, pairs: Iterable[Pair | StoredPair], *, request: Slot | None = None, remember: dict[str, int]) -> None:
        """Adds pairs. In the same transaction: `request` is finished, and `remember` replaces values of `state`."""
        rows = [(p.id, p.source, p.policy_version, 0, self._chance(p.id, 0), p.bytes) for p in pairs]
        with self._db.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, ?, ?, ?)", rows)
            if request is not None:
                db.execute("INSERT OR IGNORE INTO finished VALUES (?, ?)", (request.source, request.number))
            _remember(db, remember)

    def is_finished(self, request: Slot) -> bool:
        """Whether the pairs of that request of the stage were stored or dropped."""
        query = "SELECT 1 FROM finished WHERE source = ? AND number = ?"
        return bool(self._db.rows(query, (request.source, request.number)))

    def draw(self, step: int, version: int, quotas: dict[Source, int], *, remember: dict[str, int]) -> Draw:
        """Chooses the batch of a step, so many pairs of each source, or what is missing of it.

        Raises ValueError if a source has too few.
        """
        known = self.drawn(step)
        with self._db.transaction() as db:
            ids: list[str] = []
            for source, count in quotas.items():
                query = "SELECT id, uses FROM waiting WHERE source = ? ORDER BY uses, policy_version, chance LIMIT ?"
                found = db.execute(query, (source, count)).fetchall()
                if len(found) < count:
                    raise ValueError(f"step {step} wants {count} {source} pairs, {len(found)} are there")
                ids += [id_ for id_, _ in found]
                used = [(id_, uses + 1) for id_, uses in found]
                again = [(uses, self._chance(id_, uses), id_) for id_, uses in used if uses < self._max_uses]
                db.executemany("UPDATE waiting SET uses = ?, chance = ? WHERE id = ?", again)
                gone = [(id_,) for id_, uses in used if uses >= self._max_uses]
                db.executemany("DELETE FROM waiting WHERE id = ?", gone)
                db.execute("UPDATE sums SET drawn = drawn + ? WHERE source = ?", (count, source))
            # Shuffled, or the first rank would always get the oldest pairs of the first source.
            order = np.random.default_rng([self._seed % 2**64, step]).permutation(len(ids))
            new = [ids[place] for place in order]
            draw = Draw(version, tuple(id_ or new.pop() for id_ in known.ids) if known else tuple(new))
            db.execute("INSERT OR REPLACE INTO draws VALUES (?, ?, ?)", (step, version, json.dumps(draw.ids)))
            _remember(db, {"version": version, **remember})
        return draw

    def set_aside(self, step: int, ids: Collection[str], *, remember: dict[str, int]) -> None:
        """Pairs that cannot be learned from leave the batch of a step, and wait no more."""
        draw = self.drawn(step)
        with self._db.transaction() as db:
            db.executemany("DELETE FROM waiting WHERE id = ?", [(id_,) for id_ in ids])
            left = ["" if id_ in ids else id_ for id_ in draw.ids] if draw else []
            db.execute("UPDATE draws SET ids = ? WHERE step = ?", (json.dumps(left), step))
            _remember(db, remember)

    def drawn(self, step: int) -> Draw | None:
        """The batch of a step, if it was chosen."""
        rows = self._db.rows("SELECT version, ids FROM draws WHERE step = ?", (step,))
        return Draw(rows[0][0], tuple(json.loads(rows[0][1]))) if rows else None

    def last_step(self) -> int:
        """The last step that has a batch, or -1."""
        return self._db.value("SELECT COALESCE(MAX(step), -1) FROM draws")

    def drop_older(self, policy_version: int) -> int:
        """Drops what a policy of an earlier version made; returns how many. Sources of `AGELESS` stay."""
        query = f"DELETE FROM waiting WHERE policy_version < ? AND source NOT IN {AGELESS}"
        with self._db.transaction() as db:
            return db.execute(query, (policy_version,)).rowcount

    def drop_oldest(self, count: int) -> int:
        """Makes room: drops the oldest generated pairs, the most used first; returns how many."""
        oldest = "SELECT id FROM waiting WHERE source != 'offline' ORDER BY policy_version, uses DESC, chance LIMIT ?"
        with self._db.transaction() as db:
            return db.execute(f"DELETE FROM waiting WHERE id IN ({oldest})", (count,)).rowcount

    def sums(self) -> dict[Source, tuple[int, int, int]]:
        """Source -> pairs and bytes that wait, and pairs drawn so far."""
        return {row[0]: row[1:] for row in self._db.rows("SELECT source, pairs, bytes, drawn FROM sums")}

    def uses_left(self, source: Source) -> int:
        """In how many places of a batch the waiting pairs of a source may still stand."""
        return self._db.value("SELECT SUM(? - uses) FROM waiting WHERE source = ?", (self._max_uses, source))

    def counts(self) -> dict[str, int]:
        """What `remember` was given under names that begin with `count/`, without that beginning."""
        rows = self._db.rows("SELECT name, value FROM state WHERE name LIKE 'count/%'")
        return {name.removeprefix("count/"): value for name, value in rows}

    def state(self, name: str) -> int:
        """What was remembered under a name; 0 at first."""
        return self._db.value("SELECT value FROM state WHERE name = ?", (name,))

    def close(self) -> None:
        self._db.close()

    def _chance(self, id_: str, uses: int) -> int:
        digest = hashlib.blake2b(f"{self._seed}/{uses}/{id_}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, signed=True)


def _remember(db: sqlite3.Connection, values: dict[str, int]) -> None:
    db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", values.items())
