"""The pairs and anchors of one place. What `append` acknowledged survives anything but the loss of the disk.

    commit-00000007.json          which segments an append added, with checksums; what no commit names does not count
    pairs-00000007.arrow          facts of pairs: ids, versions, verdicts
    anchors-00000007.arrow        facts of anchors
    latents-00000007.arrow        one row per video, however many pairs it is in
    conditionings-00000007.arrow  one row per condition
    verdicts-00000008.arrow       verdicts that replace earlier ones
    made_for.json                 the bundle that encoded the latents
    catalog.sqlite                where each row lies; made again from the commits if it is gone
    set_aside/                    what a killed writer left behind, never read, never deleted
    store.lock                    held by the one process that writes

No row ever changes or is deleted. The buffer (`replay.py`) counts how often a pair was used.
"""

import logging
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from buffers.labels import LABELS
from buffers.records import Anchor, EncodedCondition, Judged, Pair, TensorData, Verdict
from buffers.store import arrow
from buffers.store.catalog import Catalog
from buffers.store.commits import commit_name, segment_name, write_commit
from buffers.store.encoded_by import ENCODED_BY, check_encoded_by, keep_encoded_by, read_encoded_by
from buffers.store.places import LOCK, Folder, place_of
from buffers.store.recovery import catch_up, fits, recover
from buffers.store.segments import Segment, Segments, write_segment
from buffers.store.waiting import WAITING

log = logging.getLogger(__name__)

SMALL = 1 << 16
"""Bytes below which payloads are copied together into one batch, which costs less than a batch each."""

CATALOG = "catalog.sqlite"


class PairStore:
    """An append-only store of pairs and anchors, each video and condition kept once. One writer, any number of readers.

    `catalog` answers what is stored, without reading it. Two `append`s at once are not safe; reading while one append
    runs is.

    Example: `PairStore("runs/demo/buffer").append([pair], [conditioning])`
    """

    def __init__(self, where: str | Path, *, write: bool = True, encoded_by: Mapping[str, str] | None = None) -> None:
        """Opens or makes the store and recovers what is in it; `recovery` says what was wrong.

        `where`: a folder, or a URI. `encoded_by`: the bundle's parts, name -> fingerprint (`vae`, ...). Raises
        BlockingIOError if another process writes there, ValueError if a newer Apogee wrote the store (then nothing is
        touched) or another bundle encoded it, FileNotFoundError if there is nothing to read, OSError if it cannot be
        written to.
        """
        self.place = place_of(where)
        self._writes, self._kept = write, False
        with ExitStack() as opened:
            if write:
                self.place.make()
                opened.callback(self.place.unlock, self.place.lock())
            check_encoded_by(self.place, encoded_by or {})
            self.encoded_by = read_encoded_by(self.place) | dict(encoded_by or {})
            self._segments = Segments(self.place)
            opened.callback(self._segments.close)
            self.catalog = self._opened_catalog()
            opened.callback(self.catalog.close)
            self.recovery = recover(self.place, self.catalog, write=write)
            if self.recovery:
                log.warning("%s was not closed cleanly: %s", self.place, self.recovery)
            self._opened = opened.pop_all()

    def __len__(self) -> int:
        """How many pairs there are."""
        return self.catalog.count("pairs")

    def append(
        self, pairs: Sequence[Pair] = (), conditionings: Iterable[EncodedCondition] = (), anchors: Sequence[Anchor] = ()
    ) -> None:
        """Keeps the pairs, the anchors and what is new of their videos and conditions; durable when this returns.

        A video whose id is known is not written again. Raises ValueError if a pair or an anchor is stored already or
        has no conditioning, OSError that names the place if it cannot be written (disk full). Then nothing of this call
        is kept, and all that was stored before is.
        """
        new = self._new("conditionings", {c.condition_id: c for c in conditionings})
        self._check(pairs, anchors, new)
        videos = {pair.chosen_id: pair.chosen for pair in pairs} | {pair.rejected_id: pair.rejected for pair in pairs}
        videos = self._new("latents", videos | {anchor.video_id: anchor.latents for anchor in anchors})
        embeds = {id_: each.frame_latents or each.prompt_embeds for id_, each in new.items()}
        batches: dict[str, Iterable[pa.RecordBatch]] = {
            "conditionings": (arrow.conditionings_batch([new[id_] for id_ in ids]) for ids in _packed(embeds)),
            "latents": (arrow.latents_batch({id_: videos[id_] for id_ in ids}) for ids in _packed(videos)),
            "pairs": [arrow.pairs_batch(pairs)],
            "anchors": [arrow.anchors_batch(anchors)],
        }
        rows: dict[str, list[tuple]] = {
            "conditionings": [(c.condition_id, c.condition.domain) for c in new.values()],
            "latents": [(id_, v.nbytes, " x ".join(map(str, v.shape))) for id_, v in videos.items()],
            "pairs": [_pair_row(pair) for pair in pairs],
            "anchors": [(a.id, a.condition_id, a.video_id, a.positive) for a in anchors],
        }
        self._commit(batches, rows, f"{len(pairs)} pairs and {len(anchors)} anchors")

    def correct(self, verdicts: Mapping[str, Verdict]) -> None:
        """New verdicts by pair id. A and B are the videos that `Judged.in_order` returns.

        If a new verdict prefers the other video, chosen and rejected are exchanged. Raises KeyError for a pair that is
        not stored, ValueError for a verdict that names neither video, OSError as `append`.
        """
        for id_ in sorted(verdicts.keys() - self.catalog.known("pairs", verdicts)):
            raise KeyError(f"{id_} is no pair of {self.place}")
        for id_, verdict in verdicts.items():
            if verdict.label not in LABELS:
                raise ValueError(f"pair {id_}: label {verdict.label}; want 1, 2, 3 or 4")
        rows = {"verdicts": [(id_, verdict.label) for id_, verdict in verdicts.items()]}
        self._commit({"verdicts": [arrow.verdicts_batch(verdicts)]}, rows, f"{len(verdicts)} verdicts")

    def read(self, ids: Sequence[str]) -> list[Pair]:
        """The pairs with these ids, in this order. On this machine their latents are read-only views of the files.

        Raises KeyError for an id that is not stored, FileNotFoundError and ValueError that name a segment that is gone
        or whose bytes have changed.
        """
        facts = self._facts("pairs", ids)
        judged = self._judged(facts)
        videos = self.latents([id_ for each in judged.values() for id_ in each.in_order])
        fields = [facts[id_] | vars(judged[id_]) for id_ in ids]
        return [Pair(**each, chosen=videos[each["chosen_id"]], rejected=videos[each["rejected_id"]]) for each in fields]

    def judged(self, ids: Sequence[str]) -> dict[str, Judged]:
        """The present judgement of each pair, corrections included. No video is read. Raises as `read` does."""
        return self._judged(self._facts("pairs", ids))

    def latents(self, ids: Iterable[str]) -> dict[str, TensorData]:
        """Videos by id. Raises as `read` does."""
        return {id_: arrow.read_latents(row) for id_, row in self._rows("latents", ids).items()}

    def conditionings(self, condition_ids: Iterable[str]) -> dict[str, EncodedCondition]:
        """The conditionings of these conditions. Raises as `read` does."""
        rows = self._rows("conditionings", condition_ids)
        return {id_: arrow.read_conditioning(row) for id_, row in rows.items()}

    def anchors(self, ids: Sequence[str]) -> list[Anchor]:
        """The anchors with these ids, in this order. Raises as `read` does."""
        facts = self._facts("anchors", ids)
        videos = self.latents(anchor["video_id"] for anchor in facts.values())
        return [Anchor(**facts[id_], latents=videos[facts[id_]["video_id"]]) for id_ in ids]

    def verify(self, *, read: Callable[[Segment], None] = lambda segment: None) -> dict[str, str]:
        """Reads everything: name of a file -> what is wrong with it. `read` is called with each segment that was."""
        commits, names = set(map(commit_name, range(1, self.catalog.commits + 1))), set(self.place.names())
        ours = {f"{name}{suffix}" for name in (CATALOG, WAITING) for suffix in ("", "-wal", "-shm")}
        ours |= {ENCODED_BY, LOCK} | commits
        wrong = dict.fromkeys(sorted(commits - names), "is gone")
        for segment in self.catalog.segments():
            ours.add(segment.name)
            found = self._segments.checksum(segment)
            if found != segment.sha256:
                wrong[segment.name] = "is gone" if found is None else "does not hold the bytes that were written"
            read(segment)
        return wrong | dict.fromkeys(names - ours, "is none of the store's")

    def close(self) -> None:
        """Lets another process write. What was read stays valid."""
        self._opened.close()

    def _commit(self, batches: Mapping[str, Iterable], rows: dict[str, list[tuple]], what: str) -> None:
        if not self._writes:
            raise ValueError(f"{self.place} was opened to be read")
        kinds = [kind for kind in batches if rows[kind]]
        if not kinds:
            return
        sealed: list[Segment] = []
        number = 0
        try:
            # An earlier append may be on disk whose entry in the catalog failed.
            catch_up(self.place, self.catalog)
            number = self.catalog.commits + 1
            if not self._kept:
                keep_encoded_by(self.place, self.encoded_by)
                self._kept = True
            for kind in kinds:
                name = segment_name(kind, number)
                sealed.append(write_segment(self.place, name, batches[kind], kind=kind, schema=arrow.TABLES[kind]))
            self.place.settle()
            write_commit(self.place, number, sealed, rows)
        except BaseException as error:
            with suppress(OSError):  # The commit first: none may name what is gone.
                for name in (commit_name(number), *(segment.name for segment in sealed)):
                    self.place.remove(name)
            if not isinstance(error, OSError):
                raise
            why = f"cannot store {what} ({error.strerror or error}); everything stored before is kept"
            advice = "Make room or fix the permissions, then resume"
            raise OSError(error.errno, f"{why}. {advice}", str(self.place)) from error
        for segment in sealed:
            self._segments.written(segment)
        self.catalog.add(number, sealed, rows)  # If this fails it is stored all the same, and entered later.

    def _opened_catalog(self) -> Catalog:
        """The folder's own. A private one if there is no folder, or for a reader who would have to change it."""
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

    def _new(self, kind: str, records: dict[str, Any]) -> dict[str, Any]:
        known = self.catalog.known(kind, records)
        return {id_: record for id_, record in records.items() if id_ not in known}

    def _check(self, pairs: Sequence[Pair], anchors: Sequence[Anchor], new: Mapping[str, EncodedCondition]) -> None:
        for kind, items in (("pair", pairs), ("anchor", anchors)):
            ids = [item.id for item in items]
            twice = [id_ for id_, count in Counter(ids).items() if count > 1]
            for id_ in sorted({*twice, *self.catalog.known(f"{kind}s", ids)}):
                raise ValueError(f"{kind} {id_} is in {self.place} already")
        needed = {item.condition_id: item.id for item in (*pairs, *anchors)}
        for condition_id in needed.keys() - new.keys() - self.catalog.known("conditionings", needed):
            raise ValueError(f"{needed[condition_id]} has no conditioning: {condition_id} was neither stored nor given")

    def _judged(self, facts: Mapping[str, dict[str, Any]]) -> dict[str, Judged]:
        """Of pairs, given their facts."""
        newer = self._facts("verdicts", self.catalog.known("verdicts", facts))
        old = {id_: Judged(p["chosen_id"], p["rejected_id"], p["verdict"], p.get("scores")) for id_, p in facts.items()}
        return old | {id_: old[id_].corrected(correction["verdict"]) for id_, correction in newer.items()}

    def _facts(self, kind: str, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        return {id_: arrow.read_facts(row) for id_, row in self._rows(kind, ids).items()}

    def _rows(self, kind: str, ids: Iterable[str]) -> dict[str, pa.RecordBatch]:
        """Batches of one row. Raises KeyError for an id that is not stored."""
        wanted = list(dict.fromkeys(ids))
        known = self.catalog.places(kind, wanted)
        by_segment: dict[Segment, list[str]] = {}
        for id_ in wanted:
            if id_ not in known:
                what = "no pair" if kind == "pairs" else f"not among the {kind}"
                raise KeyError(f"{id_} is {what} of {self.place}")
            by_segment.setdefault(known[id_][0], []).append(id_)
        found: dict[str, pa.RecordBatch] = {}
        for segment, some in by_segment.items():
            rows = self._segments.rows(segment, [known[id_][1] for id_ in some])
            found.update(zip(some, rows, strict=True))
        return found


def _pair_row(pair: Pair) -> tuple:
    """What the catalog keeps of it."""
    ids = (pair.id, pair.condition_id, pair.chosen_id, pair.rejected_id)
    return (*ids, pair.policy_version, pair.source, pair.bytes, pair.verdict and pair.verdict.label)


def _packed(payloads: Mapping[str, TensorData]) -> list[list[str]]:
    """Ids of the payloads, by the batch they go into."""
    if all(payload.nbytes < SMALL for payload in payloads.values()):
        return [list(payloads)]
    return [[id_] for id_ in payloads]
