"""Seeded streams that never end and can be resumed: requests made of prompts, and draws of people's labelled videos.

    stream = PromptStream(conditions, per_request=4, seed=0, first=state.conditions_drawn, done=state.requests_done)
    request = stream.next()

What comes next depends on seed, items and place alone, so a counter is the whole state of a stream.
"""

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from buffers.mixing import quotas
from buffers.records import Condition, Request
from buffers.store.catalog import StoredAnchor
from buffers.store.pair_store import PairStore

Item = TypeVar("Item")

FIRST_SEED = 2**31
"""Noise seeds of a stream lie in [2^31, 2^32): torch's CPU generator keeps 32 bits. The seeds below are for people
(evaluation), so that no training video is ever an evaluation video."""


class PromptStream:
    """Requests without end: every epoch shows each condition once, in an order drawn from (seed, epoch).

    Request `n` is a function of (seed, conditions, per_request, first, n). Requests go on over the end of an epoch.
    Noise seeds never repeat within 2^30 conditions.
    """

    def __init__(
        self, conditions: Sequence[Condition], *, per_request: int, seed: int, first: int = 0, done: Iterable[int] = ()
    ) -> None:
        """`first`: how many conditions were drawn before this stage. `done`: numbers of finished requests, left out.

        Raises ValueError if there are no conditions.
        """
        if not conditions:
            raise ValueError("a prompt stream needs at least one condition")
        self._conditions = _Shuffled(conditions, seed, "order")
        self._per_request, self._first = per_request, first
        self._done, self._number = frozenset(done), 0
        self._first_noise = int(_rng(seed, "noise").integers(2**31))

    def next(self) -> Request:
        """The next `per_request` conditions, each with two noise seeds of its own, numbered from 0."""
        while self._number in self._done:
            self._number += 1
        start = self._first + self._number * self._per_request
        places = range(start, start + self._per_request)
        request = Request(tuple(map(self._conditions.at, places)), tuple(map(self._noise, places)), self._number)
        self._number += 1
        return request

    def _noise(self, place: int) -> tuple[int, int]:
        first = self._first_noise + 2 * place
        return FIRST_SEED + first % 2**31, FIRST_SEED + (first + 1) % 2**31


class AnchorStream:
    """Anchors without end. `positive_share` of all draws are positive, exact over time (`buffers.mixing`).

    Every anchor is drawn once before any anchor of its polarity is drawn again; (seed, polarity, epoch) decides the
    order. The two counts of draws are the state.
    """

    def __init__(self, store: PairStore, *, positive_share: float, seed: int) -> None:
        """Raises ValueError if `positive_share` asks for a polarity of which the store has no anchor."""
        shares = {"positive": positive_share, "negative": 1.0 - positive_share}
        self._shares = {name: share for name, share in shares.items() if share}
        self._seed, self._drawn = seed, dict.fromkeys(shares, 0)
        stored = sorted(store.catalog.anchors(store.catalog.ids("anchors")), key=lambda anchor: anchor.id)
        self._anchors, ids = {}, []
        for name, share in self._shares.items():
            some = [anchor for anchor in stored if anchor.positive == (name == "positive")]
            if not some:
                raise ValueError(f"{store.place} holds no {name} anchor; {share:g} of all are to be such")
            self._anchors[name] = _Shuffled(some, seed, name)
            ids += [f"{name} {anchor.id}" for anchor in some]
        self._digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]

    def next(self, count: int) -> list[StoredAnchor]:
        """The next `count` draws, the polarities in turn."""
        draws = []
        for _ in range(count):
            (name,) = quotas(self._shares, self._drawn, 1)
            draws.append(self._anchors[name].at(self._drawn[name]))
            self._drawn[name] += 1
        return draws

    def state(self) -> dict[str, Any]:
        """Plain JSON values, from which `restore` goes on exactly here in a stream of the same anchors and seed."""
        return {"seed": self._seed, "anchors": self._digest, "drawn": dict(self._drawn)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ValueError if it is of another seed or of other anchors."""
        for key, value in {"seed": self._seed, "anchors": self._digest}.items():
            if state.get(key) != value:
                raise ValueError(f"the saved anchor stream has {key} = {state.get(key)}, this run has {value}")
        self._drawn = {name: int(count) for name, count in state["drawn"].items()}


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
