"""Seeded streams that never end: what the slots of the buffer stand for, as requests for the generators.

    request = PromptStream(conditions, per_request=4, seed=0).at(Slot("online", 17))

A request depends on seed, items and number alone, so a stream has no state.
"""

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from actors.prompts import of_store
from buffers.portions import portions
from buffers.records import Condition, Request, Slot
from buffers.store.catalog import StoredAnchor
from buffers.store.pair_store import PairStore

Item = TypeVar("Item")

FIRST_SEED = 2**31
"""Noise seeds of a stream lie in [2^31, 2^32): torch's CPU generator keeps 32 bits. The seeds below are for people
(evaluation), so that no training video is ever an evaluation video."""


SORTED_REQUESTS = 16
"""Requests' worth of a stream that are sorted by size at a time."""


class PromptStream:
    """Requests without end: every epoch shows each condition once, in an order drawn from (seed, epoch).

    Request `n` is a function of (seed, conditions, per_request, first, n). Requests go on over the end of an epoch.
    """

    def __init__(self, conditions: Sequence[Condition], *, per_request: int, seed: int, first: int = 0) -> None:
        """`first`: the place of its first condition, in the order and among the noises of this seed.

        Raises ValueError if there are no conditions.
        """
        if not conditions:
            raise ValueError("a prompt stream needs at least one condition")
        self._conditions = _Shuffled(conditions, seed, "order")
        self._noises = _Noises(seed)
        self._places = _OfOneSize(lambda place: self._conditions.at(first + place).size, per_request)
        self._first = first

    def at(self, slot: Slot) -> Request:
        """Up to `per_request` conditions, each with two noise seeds of its own; as many if all have one size."""
        places = [self._first + place for place in self._places.of_request(slot.number)]
        return Request(tuple(map(self._conditions.at, places)), tuple(map(self._noises.at, places)), slot)


class AnchorStream:
    """Requests for videos of the conditions of anchors. `positive_share` of all draws are positive, to less than one.

    Every anchor is drawn once before any anchor of its polarity is drawn again; (seed, polarity, epoch) decides the
    order.
    """

    def __init__(
        self,
        store: PairStore,
        *,
        positive_share: float,
        per_request: int,
        seed: int,
        first: int = 0,
        spatial: int | None = None,
    ) -> None:
        """The store is read here and not later. `first`: the place of its first noise among those of this seed.
        `spatial`: pixels of a latent, if each video is made at the size of its anchor; None: all have one size.

        Raises ValueError if `positive_share` asks for a polarity of which the store has no anchor.
        """
        self._share, self._first, self._spatial = positive_share, first, spatial
        stored = sorted(store.catalog.anchors(store.catalog.ids("anchors")), key=lambda anchor: anchor.id)
        self._anchors: dict[bool, _Shuffled[StoredAnchor]] = {}
        for positive, share in ((True, positive_share), (False, 1.0 - positive_share)):
            some = [anchor for anchor in stored if anchor.positive is positive]
            name = "positive" if positive else "negative"
            if share and not some:
                raise ValueError(f"{store.place} holds no {name} anchor; {share:g} of all are to be such")
            if share:
                self._anchors[positive] = _Shuffled(some, seed, name)
        conditionings = store.conditionings({anchor.condition_id for anchor in stored})
        self._conditions = {id_: of_store(store.place, conditioning) for id_, conditioning in conditionings.items()}
        self._noises = _Noises(seed)
        self._places = _OfOneSize(lambda place: self._size_of(self._anchor(place)), per_request)

    def at(self, slot: Slot) -> Request:
        """Up to `per_request` anchors, and for each its condition with two noise seeds of its own."""
        places = self._places.of_request(slot.number)
        anchors = tuple(map(self._anchor, places))
        conditions = tuple(replace(self._conditions[each.condition_id], size=self._size_of(each)) for each in anchors)
        seeds = tuple(self._noises.at(self._first + place) for place in places)
        return Request(conditions, seeds, slot, tuple(anchor.id for anchor in anchors))

    def _size_of(self, anchor: StoredAnchor) -> tuple[int, int] | None:
        if self._spatial is None:
            return None
        *_, height, width = anchor.shape
        return height * self._spatial, width * self._spatial

    def _anchor(self, place: int) -> StoredAnchor:
        before, after = (math.floor(self._share * count + 0.5) for count in (place, place + 1))
        positive = after > before
        return self._anchors[positive].at(before if positive else place - before)


class _OfOneSize:
    """Places of a stream, request by request: those of a request have one size, and are neighbours if all do.

    A portion of the stream is sorted into requests at a time, so that none has to wait long for others of its size.
    """

    def __init__(self, size_of: Callable[[int], Hashable], per_request: int) -> None:
        self._size_of, self._per_request = size_of, per_request
        self._requests: list[Sequence[int]] = []
        self._sorted = 0

    def of_request(self, number: int) -> Sequence[int]:
        while number >= len(self._requests):
            end = self._sorted + SORTED_REQUESTS * self._per_request
            by_size: dict[Hashable, list[int]] = {}
            for place in range(self._sorted, end):
                by_size.setdefault(self._size_of(place), []).append(place)
            some = [each for places in by_size.values() for each in portions(places, self._per_request)]
            self._requests += sorted(some, key=lambda places: places[-1])
            self._sorted = end
        return self._requests[number]


class _Noises:
    """Two noise seeds for every place; none comes twice within 2^30 places."""

    def __init__(self, seed: int) -> None:
        self._start = int(_rng(seed, "noise").integers(2**31))

    def at(self, place: int) -> tuple[int, int]:
        first = self._start + 2 * place
        return FIRST_SEED + first % 2**31, FIRST_SEED + (first + 1) % 2**31


class _Shuffled(Generic[Item]):
    """Items without end: each once per epoch, in an order drawn from (key, epoch)."""

    def __init__(self, items: Sequence[Item], *key: Hashable) -> None:
        self._items, self._key = tuple(items), key
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def at(self, place: int) -> Item:
        """The item at a place from 0 on, whichever was asked for before."""
        epoch, within = divmod(place, len(self._items))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _rng(*self._key, epoch).permutation(len(self._items))
        return self._items[self._order[within]]


def _rng(*key: Hashable) -> np.random.Generator:
    """A generator for that key. Unlike `hash`, sha256 gives the same bits in every process."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little"))
