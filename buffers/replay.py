"""The buffer between ranker and learner, and the pace of the run: `add` waits when it is full, `take` when it is not.

    add(candidates, verdicts) --> [ store on disk | waiting pairs ] --> take(step, count) --> batch
                          people's own pairs, a store --^

Nothing of it lives in memory; latents are read back, memory-mapped, when a rank takes its share. Which pairs a step
gets is `waiting.py`.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from buffers.labels import IN_DOUBT, TALLY
from buffers.mixing import quotas
from buffers.pairing import anchored_pairs, judged_pair, unjudged_pair
from buffers.portions import portions
from buffers.records import Batch, Candidates, EncodedCondition, Pair, Preference, Request, RoleTimes, Slot, Source
from buffers.store.pair_store import PairStore
from buffers.store.waiting import WAITING, Draw, WaitingPairs
from configs.sections import BufferConfig, MixConfig

log = logging.getLogger(__name__)

RECALLED_AT_ONCE = 1000
"""Pairs that become waiting ones in one transaction, if a folder is opened."""

COUNTS = (*TALLY, "added", "duplicate", "late", "stale", "evicted", "taken", "set_aside")
"""The keys of `ReplayBuffer.counts`."""


PAIRS_OF_A_CONDITION: dict[Source, int] = {"online": 1, "half-online": 2, "unjudged": 1}
"""Pairs that two videos of a condition make: with each other, or each with the anchor."""


def made_shares(mix: MixConfig) -> dict[Source, float]:
    """Shares of the sources whose videos are generated, of those that have one."""
    names: dict[str, Source] = {"online": "online", "half_online": "half-online", "unjudged": "unjudged"}
    return {names[key]: share for key, share in mix.generated.items()}


class ReplayBuffer:
    """Keeps judged pairs on disk and hands each optimizer step its batch. All methods of one object on one event loop.

    A pair may be taken while `published version - pair.policy_version <= max_staleness` and it has been used fewer
    than `max_uses` times; people's own pairs do not age. `step` is the step number of the whole run: the batch of a
    step is drawn once, written down, and the same ever after, for every rank and for a learner that goes back to a
    checkpoint. Opening the folder of an earlier run goes on where it stopped, with the same pairs and uses.
    """

    def __init__(
        self,
        config: BufferConfig,
        *,
        folder: Path | str,
        seed: int,
        encoded_by: Mapping[str, str] | None = None,
        stage: int = 0,
        pairs_per_step: int = 0,
        publish_every: int = 1,
        doubtful: Path | None = None,
    ) -> None:
        """Opens the folder, and `config.offline` and `config.anchors` to be read.

        `encoded_by` and what is raised are `PairStore`'s.
        stage: number of the run's stage. A stage's mix of sources and its requests count from zero.
        pairs_per_step, publish_every: the learner's, for `admit`. With 0 pairs `admit` does not hold generation back.
        doubtful: the folder of a store for pairs that were dropped in doubt. It is not `folder`, since all that lies
            there is learned from.
        """
        self._config = config
        self._pairs_per_step, self._publish_every = pairs_per_step, publish_every
        self._store = PairStore(Path(folder), encoded_by=encoded_by)

        def opened(where: str | None, share: float) -> PairStore | None:
            return PairStore(where, write=False, encoded_by=encoded_by) if where and share else None

        self._offline = opened(config.offline, config.mix.offline)
        self._anchors = opened(config.anchors, config.mix.half_online)
        self._doubtful = PairStore(doubtful, encoded_by=encoded_by) if doubtful else None
        self._waiting = WaitingPairs(Path(folder) / WAITING, seed=seed, stage=stage, max_uses=config.max_uses)
        self._version = self._waiting.state("version")
        # A run that goes on repeats the steps up to this one; their batches are on disk.
        self._last_drawn, self._asked_for = self._waiting.last_step(), -1
        self._taken_of_version: set[int] = set()
        self._made = made_shares(config.mix)
        self._admitted: dict[Slot, int] = {}
        self._next_number = dict.fromkeys(self._made, 0)
        self._reserved = self._reserved_bytes = 0
        self._closed = False
        self._end: dict[str, int] = {}
        self._counts: Counter[str] = Counter(self._waiting.counts())
        self._calls = {"adds": 0, "takes": 0}
        self._busy_s = self._add_wait_s = self._take_wait_s = 0.0
        # Both bind to the event loop at their first wait, not here: an actor is made outside of its loop.
        self._changed = asyncio.Condition()
        self._writing = asyncio.Lock()
        self._in_flight: set[asyncio.Task[int]] = set()
        self._recall()

    async def admit(self, conditions: int) -> Slot | None:
        """Waits until one more request of so many conditions would be learned from; says which. None after `close`.

        It stays admitted until `add` or `finish`. A request of the stage that was finished before is never asked again.
        A run that goes on after a stop repeats some steps first: what was generated meanwhile would be too old. If
        `max_staleness` is 0, no more requests are admitted than the learner takes pairs before it publishes again. If
        the mix has several sources that are generated, it is the one that lacks most: the judge drops some pairs of one
        source and none of another.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._wanted() is not None)
            source = None if self._closed else self._wanted()
            if source is None:
                return None
            slot = Slot(source, self._next_number[source])
            while self._waiting.is_finished(slot):
                slot = Slot(source, slot.number + 1)
            self._next_number[source] = slot.number + 1
            self._admitted[slot] = conditions * PAIRS_OF_A_CONDITION[source]
            return slot

    async def finish(self, request: Slot) -> int:
        """An admitted request was set aside: it brings no pairs, and is not asked for again."""
        return await self.add_pairs([], [], request)

    def cursor(self) -> dict[str, int]:
        """How far the folder is: its last stored pair and the last step with a batch, for the state of a run.

        A closed buffer says how far it came: a learner that is stopped saves its state after that.
        """
        return self._end or {"stored": self._store.catalog.last_pair(), "drawn": self._waiting.last_step()}

    async def add(
        self, candidates: list[Candidates], preferences: Sequence[Preference], request: Request | None = None
    ) -> int:
        """Keeps the pairs that were not dropped; returns how many, once they are on disk.

        Waits while `capacity` is reached; one call may then go beyond it by its own pairs. 0 after `close`. `request`:
        what all of them came from; from then on it is finished. Its source says what becomes of the candidates; only
        those of an online one have `preferences`. Raises ValueError if the lists do not match, a label is none of 1 to
        4, or an anchor does not fit, OSError that names the folder if storing fails; the pairs stored earlier stay.
        """
        slot = request.slot if request else None
        if request and slot and slot.source != "online":
            if self._closed:
                return 0
            return await self.add_pairs(*await asyncio.to_thread(self._unjudged, candidates, request), slot)
        if len(candidates) != len(preferences):
            raise ValueError(f"{len(candidates)} candidates but {len(preferences)} verdicts: want one for each")
        if self._closed:
            return 0

        def judged(reasons: Collection[str | None]) -> tuple[list[Pair], list[EncodedCondition]]:
            some = [each for each in zip(candidates, preferences, strict=True) if each[1].dropped in reasons]
            return [judged_pair(*each) for each in some], [videos.conditioning for videos, _ in some]

        if self._doubtful is not None:
            await self._protected(self._keep_doubtful(*judged(IN_DOUBT)))
        counted = sum((preference.counts() for preference in preferences), Counter())
        return await self.add_pairs(*judged((None,)), slot, counted)

    def _unjudged(self, candidates: list[Candidates], request: Request) -> tuple[list[Pair], list[EncodedCondition]]:
        """The pairs of a request that no judge is asked about, and for each its conditioning."""
        if self._anchors is None:
            made = [[unjudged_pair(videos)] for videos in candidates]
        else:
            anchors = self._anchors.anchors(request.anchors)
            made = [anchored_pairs(anchor, videos) for anchor, videos in zip(anchors, candidates, strict=True)]
        conditionings = [videos.conditioning for pairs, videos in zip(made, candidates, strict=True) for _ in pairs]
        return [pair for pairs in made for pair in pairs], conditionings

    async def add_pairs(
        self,
        pairs: list[Pair],
        conditionings: list[EncodedCondition],
        request: Slot | None = None,
        counted: Mapping[str, int] | None = None,
    ) -> int:
        """Keeps pairs, one conditioning for each. Waits and raises as `add`.

        counted: keys of `counts` that grow with these pairs.
        """
        self._calls["adds"] += 1
        started = perf_counter()
        async with self._changed:
            if pairs and self._config.when_full == "drop_oldest":
                self._counts["evicted"] += self._waiting.drop_oldest(self._over())
            elif pairs and not self._strict and len(self._made) == 1:
                await self._changed.wait_for(lambda: self._closed or not self._over())
            self._add_wait_s += perf_counter() - started
            if self._closed:
                return 0
            self._reserved += len(pairs)
            self._reserved_bytes += sum(pair.bytes for pair in pairs)
        return await self._protected(self._keep(pairs, conditionings, request, counted or {}))

    async def take(self, step: int, count: int, *, rank: int = 0, world_size: int = 1) -> Batch | None:
        """This rank's share of the `count` pairs of `step`: the `rank`-th of `world_size` equal slices of the batch.

        Pairs of one size are neighbours in the batch, so that few shares have several sizes.
        Waits until there are enough pairs of each source. None after `close`. Asking again for a step gives the same
        pairs again and uses nothing up. Raises ValueError if the numbers cannot work together.
        """
        self._check_take(step, count, rank, world_size)
        self._calls["takes"] += 1
        started = perf_counter()
        async with self._changed:
            self._asked_for = max(self._asked_for, step)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._closed or self._can_draw(step, count))
            self._take_wait_s += perf_counter() - started
            if self._closed:
                return None
            draw = self._draw(step, count)
            self._taken_of_version.add(step)
            self._changed.notify_all()
        if len(draw.ids) != count:
            raise ValueError(
                f"step {step} was drawn with {len(draw.ids)} pairs and is now asked for with {count}: "
                "learner.pairs_per_step must not change within a run"
            )
        started = perf_counter()
        batch = await asyncio.to_thread(self._read, step, draw, rank, world_size)
        self._busy_s += perf_counter() - started
        return batch

    async def set_aside(self, step: int, ids: Collection[str]) -> None:
        """Pairs of a step that cannot be learned from. Others take their places at the next `take` of that step."""
        async with self._changed:
            self._counts["set_aside"] += len(ids)
            self._waiting.set_aside(step, ids, remember=self._remembered())
            self._taken_of_version.discard(step)
            self._last_drawn = min(self._last_drawn, step)
            self._changed.notify_all()

    async def advance(self, version: int) -> None:
        """The policy of this version has been published: pairs that are now too old are dropped and counted.

        Published versions never go backwards: a version that is not newer changes nothing.
        """
        async with self._changed:
            self._version = max(self._version, version)
            self._taken_of_version.clear()
            self._counts["stale"] += self._waiting.drop_older(self._version - self._config.max_staleness)
            self._changed.notify_all()

    async def close(self) -> None:
        """Lets everything that waits return, finishes what is being stored, and lets go of the folder."""
        async with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        async with self._writing:
            self._end = self.cursor()
            self._waiting.close()
            for store in (self._store, self._offline, self._anchors, self._doubtful):
                if store is not None:
                    store.close()

    def counts(self) -> dict[str, int]:
        """What has happened since the run began; every key is there from the start and only grows.

        Of the verdicts: `buffers.labels.TALLY`. added: pairs stored. duplicate: pairs not stored because they were
        there already. late: pairs not stored because they were too old when they came. stale: stored pairs that grew
        too old before their uses were up. evicted: stored pairs that made room before their uses were up. taken: uses
        of pairs, counted when a step's batch is drawn. set_aside: pairs that could not be learned from.
        """
        return {key: self._counts[key] for key in COUNTS}

    def times(self) -> RoleTimes:
        """Seconds spent storing and reading, and seconds that callers waited for room or for pairs.

        `counts`: adds and takes (calls), add_waiting_ms and take_waiting_ms (who waits for whom), usable (pairs that
        may be taken now), reserved (pairs being stored).
        """
        waited = {"add_waiting_ms": round(self._add_wait_s * 1000), "take_waiting_ms": round(self._take_wait_s * 1000)}
        usable = 0 if self._closed else sum(pairs for pairs, _, _ in self._waiting.sums().values())
        counts = {**self._calls, **waited, "usable": usable, "reserved": self._reserved}
        return RoleTimes(self._busy_s, self._add_wait_s + self._take_wait_s, counts)

    def _recall(self) -> None:
        """Takes up what was stored and is not waiting yet: by a process that was killed, or by people since then."""
        for name, store in (("store", self._store), ("offline", self._offline)):
            if store is None:
                continue
            for some in portions(store.catalog.pairs(after=self._waiting.state(name)), RECALLED_AT_ONCE):
                waiting = some
                if name == "offline":  # another run's folder may hold videos that nobody preferred
                    waiting = [replace(pair, source="offline") for pair in some if pair.source != "unjudged"]
                self._waiting.add(waiting, remember={name: some[-1].number})
        self._waiting.drop_older(self._version - self._config.max_staleness)

    async def _protected(self, storing: Coroutine[Any, Any, int]) -> int:
        """Runs to its end if the caller is cancelled: no pair may be on disk and not waiting."""
        task = asyncio.create_task(storing)
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        return await asyncio.shield(task)

    async def _keep_doubtful(self, pairs: list[Pair], conditionings: list[EncodedCondition]) -> int:
        async with self._writing:
            if self._closed or self._doubtful is None:
                return 0
            known = self._doubtful.catalog.known("pairs", [pair.id for pair in pairs])
            # A request that was under way when a run stopped brings the same pairs again.
            new = [pair for pair in pairs if pair.id not in known]
            await asyncio.to_thread(self._doubtful.append, new, conditionings)
            return len(new)

    async def _keep(
        self, pairs: list[Pair], conditionings: list[EncodedCondition], request: Slot | None, counted: Mapping[str, int]
    ) -> int:
        try:
            async with self._writing:
                if self._closed:
                    return 0
                new = self._new(pairs)
                started = perf_counter()
                if new:
                    await asyncio.to_thread(self._store.append, new, conditionings)
                usable = [pair for pair in new if not self._too_old(pair)]
                self._counts.update({**counted, "stale": len(new) - len(usable), "added": len(new)})
                remember = {"store": self._store.catalog.last_pair(), **self._remembered()}
                self._waiting.add(usable, request=request, remember=remember)
                self._busy_s += perf_counter() - started
            return len(new)
        finally:
            async with self._changed:
                if request is not None:
                    self._admitted.pop(request, None)
                self._reserved -= len(pairs)
                self._reserved_bytes -= sum(pair.bytes for pair in pairs)
                self._changed.notify_all()

    def _new(self, pairs: list[Pair]) -> list[Pair]:
        """What is worth storing. A request that was sent again after a lost generator brings the same pairs twice."""
        new: dict[str, Pair] = {}
        stored = self._store.catalog.known("pairs", [pair.id for pair in pairs])
        for pair in pairs:
            if pair.id in stored or pair.id in new:
                self._counts["duplicate"] += 1
            elif self._too_old(pair):
                self._counts["late"] += 1
            else:
                new[pair.id] = pair
        return list(new.values())

    @property
    def _strict(self) -> bool:
        """Strictly on-policy: `admit` is the pace of generation, down to the pair, and `add` never waits."""
        return self._config.max_staleness == 0 and self._pairs_per_step > 0

    def _wanted(self) -> Source | None:
        """The source of which one more request would be learned from; see `admit`."""
        if self._asked_for < self._last_drawn:
            return None
        coming = Counter[Source]()
        for slot, pairs in self._admitted.items():
            coming[slot.source] += pairs
        sums = self._waiting.sums()
        here: dict[Source, int] = {source: sums.get(source, (0,))[0] for source in self._made}
        if self._strict:
            wanted = [source for source in self._made if self._is_short(source, here[source], coming[source])]
        elif len(self._made) == 1:
            return next(iter(self._made))  # `add` is the pace
        else:
            # Here, since a source that waits for room must not stand in the way of one that is missing.
            is_full = self._held()[1] >= self._config.capacity_gb * 1e9
            room = self._quotas(self._pairs_per_step) if is_full else self._room()
            wanted: list[Source] = [source for source in self._made if here[source] < room.get(source, 0)]
        return min(wanted, key=lambda source: (here[source] + coming[source]) / self._made[source], default=None)

    def _is_short(self, source: Source, here: int, coming: int) -> bool:
        """Whether the steps until the next publication take more of a source than waits and is on its way."""
        steps = self._publish_every - len(self._taken_of_version)
        one, every = (self._quotas(self._pairs_per_step * count).get(source, 0) for count in (1, steps))
        uses_left = self._waiting.uses_left(source) + coming * self._config.max_uses
        return steps > 0 and (here + coming < one or uses_left < every)

    def _room(self) -> dict[Source, int]:
        """How many pairs of each source may wait. A batch may want two more than its share (`buffers.mixing`)."""
        capacity, shares = self._config.capacity, sum(self._made.values())
        return {source: math.ceil(capacity * share / shares) + 2 for source, share in self._made.items()}

    def _remembered(self, **more: int) -> dict[str, int]:
        """The counts as `WaitingPairs` keeps them, so that a run that goes on counts on."""
        return {f"count/{name}": value for name, value in (self._counts + Counter(more)).items()}

    def _over(self) -> int:
        """Pairs that must go before more may come; 0 if there is room. Sources that the mix leaves out do not count."""
        pairs, size = self._held()
        pairs_over, bytes_over = pairs - self._config.capacity, size - self._config.capacity_gb * 1e9
        if pairs_over < 0 and bytes_over < 0:
            return 0
        return max(pairs_over, math.ceil(bytes_over * pairs / max(size, 1))) + 1

    def _held(self) -> tuple[int, int]:
        """Pairs and bytes that wait or are being stored, of the sources that are generated."""
        held = [sums for source, sums in self._waiting.sums().items() if source in self._made]
        pairs, size = sum(pairs for pairs, _, _ in held), sum(size for _, size, _ in held)
        return pairs + self._reserved, size + self._reserved_bytes

    def _quotas(self, count: int) -> dict[Source, int]:
        drawn: dict[Source, int] = {source: sums[2] for source, sums in self._waiting.sums().items()}
        offline: dict[Source, float] = {"offline": self._config.mix.offline} if self._config.mix.offline else {}
        return quotas(self._made | offline, drawn, count)

    def _enough(self, count: int) -> bool:
        if self._strict and self._admitted:
            return False  # the batch must not depend on which request comes first
        sums = self._waiting.sums()
        return all(sums.get(source, (0,))[0] >= wanted for source, wanted in self._quotas(count).items())

    def _can_draw(self, step: int, count: int) -> bool:
        draw = self._waiting.drawn(step)
        missing = draw.missing if draw else count
        return not missing or self._enough(missing)

    def _draw(self, step: int, count: int) -> Draw:
        """Chooses the global batch of a step, or what it lacks. It is on disk before any rank sees a pair of it."""
        draw = self._waiting.drawn(step)
        missing = draw.missing if draw else count
        if draw is None or missing:
            remember = self._remembered(taken=missing)
            draw = self._waiting.draw(step, self._version, self._quotas(missing), remember=remember)
            self._counts["taken"] += missing
        return draw

    def _read(self, step: int, draw: Draw, rank: int, world_size: int) -> Batch:
        own = self._store.catalog.shapes_of_pairs(draw.ids)
        known = own if self._offline is None else self._offline.catalog.shapes_of_pairs(draw.ids) | own
        shapes, share = dict.fromkeys(known[id_] for id_ in draw.ids), len(draw.ids) // world_size
        in_order = [id_ for shape in shapes for id_ in draw.ids if known[id_] == shape]
        ids = in_order[rank * share : (rank + 1) * share]
        pairs, conditionings = {}, {}
        for store, held in ((self._store, own.keys() & ids), (self._offline, set(ids) - own.keys())):
            if store is not None and held:
                some = store.read(sorted(held))
                pairs |= {pair.id: pair for pair in some}
                conditionings |= store.conditionings({pair.condition_id for pair in some})
        ordered = [pairs[id_] for id_ in ids]
        # A generator may hold new weights a moment before this buffer hears of them: no older than 0. People's own do
        # not age, and what another run generated counts versions of another policy.
        stale = (max(0, draw.version - pair.policy_version) if pair.ages and pair.id in own else 0 for pair in ordered)
        return Batch(step, tuple(ordered), conditionings, tuple(stale), tuple(known[id_] for id_ in in_order))

    def _check_take(self, step: int, count: int, rank: int, workers: int) -> None:
        if step < 0 or count < 1 or not 0 <= rank < workers:
            raise ValueError(f"step {step}, count {count}, rank {rank} of {workers}: no such share of a batch")
        if count % workers:
            raise ValueError(f"learner.pairs_per_step ({count}) must be divisible by learner.num_workers ({workers})")
        if count > (capacity := self._config.capacity):
            raise ValueError(f"learner.pairs_per_step ({count}) is more than buffer.capacity ({capacity})")

    def _too_old(self, pair: Pair) -> bool:
        return pair.ages and self._version - pair.policy_version > self._config.max_staleness
