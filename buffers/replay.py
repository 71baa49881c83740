"""The buffer between ranker and learner, and the pace of the run: `add` waits when it is full, `take` when it is not.

    add(candidates, verdicts) --> [ store on disk | index in memory ] --> take(step, count) --> batch

Only the index lives in memory; latents are read back, memory-mapped, when a rank takes its share.

Which pairs a step gets: those used least often first, then those of the oldest policy version (a pair costs about
five times its training, so none should expire unused), and by chance, keyed by (seed, step), among equals. The
order in which pairs arrived plays no part, so the same pairs give the same batch.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from buffers.journal import Journal
from buffers.records import Batch, Candidates, Conditioning, Pair, RoleTimes, Verdict
from buffers.store import PairStore
from buffers.verdicts import BY_MOTION, TALLY, judged_pair, tally
from configs.schema import BufferConfig

log = logging.getLogger(__name__)

DRAWS = "draws.jsonl"

COUNTS = (*TALLY, "added", "duplicate", "late", "stale", "taken")
"""The keys of `ReplayBuffer.counts`."""


@dataclass
class _Usable:
    """A pair that may still be taken."""

    policy_version: int
    uses: int


@dataclass(frozen=True)
class _Draw:
    """The batch of one step, as ids; `version`: the published policy version when it was drawn."""

    version: int
    ids: tuple[str, ...]


class ReplayBuffer:
    """Keeps judged pairs on disk and hands each optimizer step its batch. All methods of one object on one event loop.

    A pair may be taken while `published version - pair.policy_version <= max_staleness` and it has been used fewer
    than `max_uses` times. `step` is the step number of the whole run: the batch of a step is drawn once, written
    down, and the same ever after, for every rank and for a learner that goes back to a checkpoint. Opening the folder
    of an earlier run goes on where it stopped, with the same pairs and uses; `advance` says which version holds.
    """

    def __init__(self, config: BufferConfig, *, folder: Path | str, seed: int) -> None:
        """Opens the folder; raises as `PairStore` does."""
        self._config = config
        self._seed = seed
        self._store = PairStore(Path(folder))
        self._journal = Journal(Path(folder) / DRAWS)
        self._usable: dict[str, _Usable] = {}
        self._draws: dict[int, _Draw] = {}
        self._version = 0
        self._reserved = 0
        self._closed = False
        self._counts: Counter[str] = Counter()
        self._kept_by: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._busy_s = self._add_wait_s = self._take_wait_s = 0.0
        # Both bind to the event loop at their first wait, not here: an actor is made outside of its loop.
        self._changed = asyncio.Condition()
        self._writing = asyncio.Lock()
        self._in_flight: set[asyncio.Task[int]] = set()
        self._recall()

    async def add(self, candidates: list[Candidates], verdicts: list[Verdict]) -> int:
        """Keeps the pairs that were not dropped and are within `motion_share`; returns how many, once they are on disk.

        Waits while `capacity` pairs or more are waiting to be taken; one call may then go beyond it by its own pairs. 0
        after `close`. Raises ValueError if the lists do not match or a label is none of 1 to 4, OSError that names the
        folder if storing fails; the pairs stored earlier stay.
        """
        if len(candidates) != len(verdicts):
            raise ValueError(f"{len(candidates)} candidates but {len(verdicts)} verdicts: there must be one for each")
        if self._closed:
            return 0
        verdicts = self._within_motion_share(verdicts)
        kept = [(judged_pair(c, v), c.conditioning) for c, v in zip(candidates, verdicts, strict=True) if not v.dropped]
        self._calls["adds"] += 1
        self._counts.update(tally(verdicts))
        if not kept:
            return 0
        started = perf_counter()
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._closed or len(self._usable) + self._reserved < self._config.capacity
            )
            self._add_wait_s += perf_counter() - started
            if self._closed:
                return 0
            self._reserved += len(kept)
        # Pairs must not be on disk but not in the index because a caller was cancelled: storing runs to its end.
        task = asyncio.create_task(self._keep(kept))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        return await asyncio.shield(task)

    async def take(self, step: int, count: int, *, rank: int = 0, world_size: int = 1) -> Batch | None:
        """This rank's share of the `count` pairs of `step`: the `rank`-th of `world_size` equal slices of the batch.

        Waits until `count` pairs are usable. None after `close`. Asking again for a step gives the same pairs again and
        uses nothing up. Raises ValueError if the numbers cannot work together.
        """
        self._check_take(step, count, rank, world_size)
        self._calls["takes"] += 1
        started = perf_counter()
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or step in self._draws or len(self._usable) >= count)
            self._take_wait_s += perf_counter() - started
            if self._closed:
                return None
            draw = self._draws.get(step) or self._draw(step, count)
        if len(draw.ids) != count:
            raise ValueError(
                f"step {step} was drawn with {len(draw.ids)} pairs and is now asked for with {count}: "
                "learner.pairs_per_step must not change within a run"
            )
        share = count // world_size
        started = perf_counter()
        batch = await asyncio.to_thread(self._read, step, draw, draw.ids[rank * share : (rank + 1) * share])
        self._busy_s += perf_counter() - started
        return batch

    async def advance(self, version: int) -> None:
        """The policy of this version has been published: pairs that are now too old are dropped and counted.

        Published versions never go backwards: a version that is not newer changes nothing.
        """
        async with self._changed:
            self._version = max(self._version, version)
            for id_ in [id_ for id_, pair in self._usable.items() if self._too_old(pair.policy_version)]:
                del self._usable[id_]
                self._counts["stale"] += 1
            self._changed.notify_all()

    async def close(self) -> None:
        """Lets everything that waits return, finishes what is being stored, and lets go of the folder."""
        async with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        async with self._writing:
            self._journal.close()
            self._store.close()

    def counts(self) -> dict[str, int]:
        """What has happened since this object was made; every key is there from the start and only grows.

        Of the verdicts: `buffers.verdicts.TALLY`. added: pairs stored. duplicate: pairs not stored because they were
        there already. late: pairs not stored because they were too old when they came. stale: stored pairs that grew
        too old before their uses were up. taken: uses of pairs, counted when a step's batch is drawn.
        """
        return {key: self._counts[key] for key in COUNTS}

    def times(self) -> RoleTimes:
        """Seconds spent storing and reading, and seconds that callers waited for room or for pairs.

        `counts`: adds and takes (calls), add_waiting_ms and take_waiting_ms (who waits for whom), usable (pairs that
        may be taken now), reserved (pairs being stored).
        """
        return RoleTimes(
            busy_s=self._busy_s,
            waiting_s=self._add_wait_s + self._take_wait_s,
            counts={
                "adds": self._calls["adds"],
                "takes": self._calls["takes"],
                "add_waiting_ms": round(self._add_wait_s * 1000),
                "take_waiting_ms": round(self._take_wait_s * 1000),
                "usable": len(self._usable),
                "reserved": self._reserved,
            },
        )

    def _within_motion_share(self, verdicts: list[Verdict]) -> list[Verdict]:
        """Drops those that motion decided beyond their share of all that was kept since this object was made."""
        within = list(verdicts)
        # Those that distortion decided first: they make room for the others of the same call.
        for index in sorted(range(len(verdicts)), key=lambda index: verdicts[index].label in BY_MOTION):
            verdict = verdicts[index]
            if verdict.dropped:
                continue
            criterion = "motion" if verdict.label in BY_MOTION else "distortion"
            kept = self._kept_by.total() + 1
            if criterion == "motion" and self._kept_by["motion"] + 1 > self._config.motion_share * kept:
                within[index] = replace(verdict, dropped="motion_share")
            else:
                self._kept_by[criterion] += 1
        return within

    def _recall(self) -> None:
        """Takes up what an earlier process left: which steps were drawn, and how often each pair was used."""
        if self._journal.damage:
            log.warning("%s: %s", self._store.folder, "; ".join(self._journal.damage))
        for row in self._journal.rows:
            self._draws[row["step"]] = _Draw(row["version"], tuple(row["ids"]))
            self._version = max(self._version, row["version"])
        uses = Counter(id_ for draw in self._draws.values() for id_ in draw.ids)
        for stored in self._store.stored():
            if uses[stored.id] < self._config.max_uses and not self._too_old(stored.policy_version):
                self._usable[stored.id] = _Usable(stored.policy_version, uses[stored.id])

    async def _keep(self, kept: list[tuple[Pair, Conditioning]]) -> int:
        try:
            async with self._writing:
                if self._closed:
                    return 0
                new = self._new(kept)
                pairs = [pair for pair, _ in new]
                started = perf_counter()
                await asyncio.to_thread(self._store.append, pairs, [conditioning for _, conditioning in new])
                self._busy_s += perf_counter() - started
            self._counts["added"] += len(pairs)
            for pair in pairs:
                if self._too_old(pair.policy_version):
                    self._counts["stale"] += 1
                else:
                    self._usable[pair.id] = _Usable(pair.policy_version, 0)
            return len(pairs)
        finally:
            async with self._changed:
                self._reserved -= len(kept)
                self._changed.notify_all()

    def _new(self, kept: list[tuple[Pair, Conditioning]]) -> list[tuple[Pair, Conditioning]]:
        """What is worth storing. A request that was sent again after a lost generator brings the same pairs twice."""
        new: dict[str, tuple[Pair, Conditioning]] = {}
        for pair, conditioning in kept:
            if pair.id in self._store or pair.id in new:
                self._counts["duplicate"] += 1
            elif self._too_old(pair.policy_version):
                self._counts["late"] += 1
            else:
                new[pair.id] = (pair, conditioning)
        return list(new.values())

    def _draw(self, step: int, count: int) -> _Draw:
        """Chooses the global batch of a step. It is on disk before any rank sees a pair of it."""
        chance = np.random.default_rng([self._seed % 2**64, step])
        ids = sorted(self._usable)
        shuffled = [ids[i] for i in chance.permutation(len(ids))]
        shuffled.sort(key=lambda id_: (self._usable[id_].uses, self._usable[id_].policy_version))
        # Shuffled once more, or the first rank would always get the oldest pairs.
        draw = _Draw(self._version, tuple(shuffled[i] for i in chance.permutation(count)))
        self._journal.append([{"step": step, "version": draw.version, "ids": list(draw.ids)}])
        self._draws[step] = draw
        self._counts["taken"] += count
        for id_ in draw.ids:
            self._usable[id_].uses += 1
            if self._usable[id_].uses >= self._config.max_uses:
                del self._usable[id_]
        self._changed.notify_all()
        return draw

    def _read(self, step: int, draw: _Draw, ids: tuple[str, ...]) -> Batch:
        pairs = self._store.read(ids)
        return Batch(
            step=step,
            pairs=tuple(pairs),
            conditionings=self._store.conditionings(pair.condition_id for pair in pairs),
            # A generator may hold new weights a moment before this buffer hears of them: no older than 0.
            staleness=tuple(max(0, draw.version - pair.policy_version) for pair in pairs),
        )

    def _check_take(self, step: int, count: int, rank: int, world_size: int) -> None:
        if step < 0 or count < 1 or not 0 <= rank < world_size:
            raise ValueError(f"step {step}, count {count}, rank {rank} of {world_size}: no such share of a batch")
        if count % world_size:
            raise ValueError(
                f"learner.pairs_per_step ({count}) must be divisible by learner.num_workers ({world_size}): "
                "every worker takes an equal share"
            )
        if count > self._config.capacity:
            raise ValueError(
                f"learner.pairs_per_step ({count}) is more than buffer.capacity ({self._config.capacity}): "
                "a full buffer could never fill a batch"
            )

    def _too_old(self, policy_version: int) -> bool:
        return self._version - policy_version > self._config.max_staleness
