"""The pairs and anchors of one place. What `append` acknowledged survives anything but the disk.

    commit-00000007.json          which segments an append added, with checksums; what no commit names does not count
    pairs-00000007.arrow          facts of pairs: ids, versions, verdicts
    anchors-00000007.arrow        facts of anchors
    latents-00000007.arrow        one row per video, however many pairs it is in
    conditionings-00000007.arrow  one row per condition
    verdicts-00000008.arrow       verdicts that replace earlier ones
    made_for.json                 the bundle whose latents these are
    catalog.sqlite                where each row lies; made again from the commits when it is gone
    set_aside/                    what a killed writer left behind, never read, never deleted
    store.lock                    held by the one process that writes

No row ever changes or is deleted; how often a pair was used is the buffer's to know (`replay.py`).
"""

import logging
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from buffers.records import Anchor, Conditioning, Judged, Pair, TensorData, Verdict
from buffers.store import arrow
from buffers.store.catalog import Catalog, StoredPair
from buffers.store.commits import commit_name, segment_name, write_commit
from buffers.store.encoded_by import MADE_FOR, check_made_for, keep_made_for, read_made_for
from buffers.store.lock import LOCK
from buffers.store.places import Folder, place_of
from buffers.store.recovery import catch_up, fits, recover, verify
from buffers.store.segments import Segment, Segments, write_segment
from buffers.store.waiting import WAITING

log = logging.getLogger(__name__)

SMALL = 1 << 16
"""Bytes below which payloads are copied together into one batch, which costs less than a batch each."""

CATALOG = "catalog.sqlite"


class PairStore:
    """An append-only store of pairs and anchors, each video and condition kept once. One writer, any number of readers.

    Not thread-safe for several `append`s at once; reading while one append runs is fine.

    Example: `PairStore("runs/demo/buffer").append([pair], [conditioning])`
    """

    def __init__(self, where: str | Path, *, write: bool = True, made_for: Mapping[str, str] | None = None) -> None:
        """Opens or makes it and recovers what is in it; `recovery` says what was wrong. `where`: a folder, or a URI.

        `made_for`: what the latents belong to, name -> fingerprint (`vae`, `text_encoder`, ...). Raises BlockingIOError
        if another process writes there, ValueError if a newer Apogee wrote it (then nothing is touched) or it was
        made for something else, FileNotFoundError where there is nothing to read, OSError if it cannot be written to.
        """
        self.place = place_of(where)
        self._writes, self._lock, self._kept = write, None, False
        if write:
            self.place.make()
            self._lock = self.place.lock()
        try:
            check_made_for(self.place, made_for or {})
            self.made_for = read_made_for(self.place) | dict(made_for or {})
            self._segments = Segments(self.place)
            self._catalog = self._opened_catalog()
            self.recovery = recover(self.place, self._catalog, write=write)
            if self.recovery:
                log.warning("%s was not closed cleanly: %s", self.place, self.recovery)
        except BaseException:
            self._unlock()
            raise

    def __len__(self) -> int:
        return self._catalog.count("pairs")

    def __contains__(self, pair_id: object) -> bool:
        return bool(self._catalog.known("pairs", [str(pair_id)]))

    def known(self, ids: Iterable[str], kind: str = "pairs") -> set[str]:
        """Those of the ids that are there as pairs, anchors, conditionings or latents."""
        return self._catalog.known(kind, ids)

    def count(self, kind: str) -> int:
        """How many pairs, anchors, conditionings, latents or verdicts there are."""
        return self._catalog.count(kind)

    @property
    def last_number(self) -> int:
        """`StoredPair.number` of the pair that was added last; 0 where there is none."""
        return self._catalog.last_pair()

    def stored(self, *, after: int = 0) -> Iterator[StoredPair]:
        """Every pair in the order in which they were added, from the one behind number `after` on."""
        while some := self._catalog.pairs_after(after):
            yield from some
            after = some[-1].number

    def append(
        self, pairs: Sequence[Pair] = (), conditionings: Iterable[Conditioning] = (), anchors: Sequence[Anchor] = ()
    ) -> None:
        """Keeps the pairs, the anchors and what is new of their videos and conditions; durable when this returns.

        A video whose id is known is not written again. Raises ValueError if a pair or an anchor is there already or has
        no conditioning, OSError that names the place if it cannot be written (disk full); then nothing of it is
        kept and all earlier ones are.
        """
        given = {c.condition_id: c for c in conditionings}
        there = self._catalog.known("conditionings", given)
        given = {id_: conditioning for id_, conditioning in given.items() if id_ not in there}
        self._check(pairs, anchors, given)
        videos = {pair.chosen_id: pair.chosen for pair in pairs} | {pair.rejected_id: pair.rejected for pair in pairs}
        videos |= {anchor.video_id: anchor.latents for anchor in anchors}
        there = self._catalog.known("latents", videos)
        videos = {id_: latents for id_, latents in videos.items() if id_ not in there}
        embeds = {id_: conditioning.prompt_embeds for id_, conditioning in given.items()}
        batches: dict[str, Iterable[pa.RecordBatch]] = {
            "conditionings": (arrow.conditionings_batch([given[id_] for id_ in ids]) for ids in _packed(embeds)),
            "latents": (arrow.latents_batch({id_: videos[id_] for id_ in ids}) for ids in _packed(videos)),
            "pairs": [arrow.pairs_batch(pairs)] if pairs else (),
            "anchors": [arrow.anchors_batch(anchors)] if anchors else (),
        }
        rows: dict[str, list[tuple]] = {
            "conditionings": [(c.condition_id, c.condition.domain) for c in given.values()],
            "latents": [(id_, v.nbytes, " x ".join(map(str, v.shape))) for id_, v in videos.items()],
            "pairs": [_pair_row(pair) for pair in pairs],
            "anchors": [(a.id, a.condition_id, a.video_id, a.positive) for a in anchors],
        }
        self._commit(batches, rows, f"{len(pairs)} pairs and {len(anchors)} anchors")

    def correct(self, verdicts: Mapping[str, Verdict]) -> None:
        """Pair id -> the verdict that holds from now on, about the videos in the order of `Judged.in_order`; where it
        names the other one, the two change sides.

        Raises KeyError for a pair that is not stored, ValueError for a verdict that names neither, OSError as `append`.
        """
        unknown = sorted(verdicts.keys() - self._catalog.known("pairs", verdicts))
        if unknown:
            raise KeyError(f"{unknown[0]} is no pair of {self.place}")
        for id_, verdict in verdicts.items():
            if verdict.label not in (1, 2, 3, 4):
                raise ValueError(f"pair {id_}: label {verdict.label}; want 1, 2, 3 or 4")
        batches = {"verdicts": [arrow.verdicts_batch(dict(verdicts))]}
        self._commit(
            batches, {"verdicts": [(id_, v.label) for id_, v in verdicts.items()]}, f"{len(verdicts)} verdicts"
        )

    def read(self, ids: Sequence[str]) -> list[Pair]:
        """The pairs with these ids, in this order; on this machine their latents are read-only views of the files.

        Raises KeyError for an id that is not stored, FileNotFoundError and ValueError that name a segment that is gone
        or whose bytes have changed.
        """
        stored = self._stored(ids)
        judged = self._judged(stored)
        videos = self.latents([id_ for pair in stored.values() for id_ in (pair.chosen_id, pair.rejected_id)])
        return [
            Pair(
                id=id_,
                condition_id=stored[id_].condition_id,
                chosen_id=judged[id_].chosen_id,
                rejected_id=judged[id_].rejected_id,
                chosen=videos[judged[id_].chosen_id],
                rejected=videos[judged[id_].rejected_id],
                policy_version=stored[id_].policy_version,
                source=stored[id_].source,
                verdict=judged[id_].verdict,
            )
            for id_ in ids
        ]

    def judged(self, ids: Sequence[str]) -> dict[str, Judged]:
        """What is held of these pairs now, corrections included; no video is read. Raises as `read` does."""
        return self._judged(self._stored(ids))

    def latents(self, ids: Iterable[str]) -> dict[str, TensorData]:
        """Videos by id. Raises as `read` does."""
        return {id_: arrow.read_latents(row) for id_, row in self._all_rows("latents", ids).items()}

    def conditionings(self, condition_ids: Iterable[str]) -> dict[str, Conditioning]:
        """The conditionings of these conditions. Raises as `read` does."""
        rows = self._all_rows("conditionings", condition_ids)
        return {id_: arrow.read_conditioning(row) for id_, row in rows.items()}

    def anchors(self, ids: Sequence[str]) -> list[Anchor]:
        """The anchors with these ids, in this order. Raises as `read` does."""
        facts = {id_: row.to_pylist()[0] for id_, row in self._all_rows("anchors", ids).items()}
        videos = self.latents(dict.fromkeys(row["video_id"] for row in facts.values()))
        return [Anchor(**facts[id_], latents=videos[facts[id_]["video_id"]]) for id_ in ids]

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple]:
        """Any question to the catalog, in SQL; its tables are in `catalog.py`."""
        return self._catalog.rows(query, values)

    def verify(self, *, read: Callable[[Segment], None] = lambda segment: None) -> dict[str, str]:
        """Reads everything: name of a file -> what is wrong with it. `read` is told of each segment that has been."""
        known = {f"{name}{suffix}" for name in (CATALOG, WAITING) for suffix in ("", "-wal", "-shm")} | {MADE_FOR, LOCK}
        return verify(self.place, self._catalog, self._segments, known=known, read=read)

    def close(self) -> None:
        """Lets another process write. What was read stays valid."""
        self._catalog.close()
        self._unlock()

    def _commit(self, batches: Mapping[str, Iterable], rows: dict[str, list[tuple]], what: str) -> None:
        if not self._writes:
            raise ValueError(f"{self.place} was opened to be read")
        batches = {kind: some for kind, some in batches.items() if rows[kind]}
        if not batches:
            return
        sealed: list[Segment] = []
        number = 0
        try:
            # An earlier append may be on disk whose entry in the catalog failed.
            catch_up(self.place, self._catalog)
            number = self._catalog.commits + 1
            if not self._kept:
                keep_made_for(self.place, self.made_for)
                self._kept = True
            for kind, some in batches.items():
                name = segment_name(kind, number)
                sealed.append(write_segment(self.place, name, some, kind=kind, schema=arrow.TABLES[kind]))
            self.place.settle()
            write_commit(self.place, number, sealed, rows)
        except BaseException as error:
            with suppress(OSError):  # The commit first: none may name what is gone.
                for name in (commit_name(number), *(segment.name for segment in sealed)):
                    self.place.remove(name)
            if not isinstance(error, OSError):
                raise
            raise OSError(
                error.errno,
                f"cannot store {what} ({error.strerror or error}); everything stored before is kept, these are not. "
                "Make room or fix the permissions, then resume",
                str(self.place),
            ) from error
        for segment in sealed:
            self._segments.written(segment)
        self._catalog.add(number, sealed, rows)  # If this fails it is stored all the same, and entered later.

    def _opened_catalog(self) -> Catalog:
        """The folder's own; a private one where there is no folder, and for a reader who would have to change it."""
        if isinstance(self.place, Folder):
            if self._writes:
                return Catalog(self.place.path / CATALOG)
            if not self.place.path.is_dir():
                raise FileNotFoundError(f"no store {self.place}")
            with suppress(OSError, sqlite3.DatabaseError):
                shared = Catalog(self.place.path / CATALOG, anew=False)
                if fits(self.place, shared):
                    return shared
                shared.close()
        self._private = tempfile.TemporaryDirectory(prefix="apogee-catalog-")
        return Catalog(Path(self._private.name) / CATALOG)

    def _unlock(self) -> None:
        if self._lock is not None:
            self.place.unlock(self._lock)
            self._lock = None

    def _check(self, pairs: Sequence[Pair], anchors: Sequence[Anchor], new: Mapping[str, Conditioning]) -> None:
        for kind, items in (("pair", pairs), ("anchor", anchors)):
            ids = [item.id for item in items]
            there = self._catalog.known(f"{kind}s", ids)
            twice = there or {id_ for id_ in ids if ids.count(id_) > 1} if len(set(ids)) < len(ids) else there
            for id_ in sorted(twice):
                raise ValueError(f"{kind} {id_} is in {self.place} already")
        wanted = {item.condition_id: item.id for item in (*pairs, *anchors)}
        for condition_id in wanted.keys() - new.keys() - self._catalog.known("conditionings", wanted):
            raise ValueError(f"{wanted[condition_id]} has no conditioning: {condition_id} was neither stored nor given")

    def _stored(self, ids: Sequence[str]) -> dict[str, StoredPair]:
        stored = self._catalog.pairs(ids)
        for id_ in ids:
            if id_ not in stored:
                raise KeyError(f"{id_} is no pair of {self.place}")
        return stored

    def _judged(self, stored: Mapping[str, StoredPair]) -> dict[str, Judged]:
        facts, newer = self._rows("pairs", stored), self._rows("verdicts", stored)
        found = {}
        for id_, pair in stored.items():
            judged = Judged(pair.chosen_id, pair.rejected_id, arrow.read_verdict(facts[id_]))
            corrected = arrow.read_verdict(newer[id_]) if id_ in newer else None
            found[id_] = judged if corrected is None else judged.corrected(corrected)
        return found

    def _all_rows(self, kind: str, ids: Iterable[str]) -> dict[str, pa.RecordBatch]:
        wanted = list(ids)
        rows = self._rows(kind, wanted)
        for id_ in wanted:
            if id_ not in rows:
                raise KeyError(f"{id_} is not among the {kind} of {self.place}")
        return rows

    def _rows(self, kind: str, ids: Iterable[str]) -> dict[str, pa.RecordBatch]:
        by_segment: dict[Segment, list[tuple[str, int]]] = {}
        for id_, (segment, row) in self._catalog.places(kind, ids).items():
            by_segment.setdefault(segment, []).append((id_, row))
        found: dict[str, pa.RecordBatch] = {}
        for segment, places in by_segment.items():
            rows = self._segments.rows(segment, [row for _, row in places], schema=arrow.TABLES[kind])
            found.update(zip((id_ for id_, _ in places), rows, strict=True))
        return found


def _pair_row(pair: Pair) -> tuple:
    """What the catalog keeps of it."""
    size, label = pair.chosen.nbytes + pair.rejected.nbytes, pair.verdict.label if pair.verdict else None
    ids = (pair.id, pair.condition_id, pair.chosen_id, pair.rejected_id)
    return (*ids, pair.policy_version, pair.source, size, label)


def _packed(payloads: Mapping[str, TensorData]) -> list[list[str]]:
    """Ids of the payloads, by the batch they go into."""
    if not payloads:
        return []
    small = all(payload.nbytes < SMALL for payload in payloads.values())
    return [list(payloads)] if small else [[id_] for id_ in payloads]
