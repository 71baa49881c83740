"""Which labelled video the next generated one is held against: the half-online stage's draws (paper, section 3.3).

A positive anchor is chosen over what the policy makes of its condition, a negative one is rejected for it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from buffers.mixing import quotas
from buffers.records import Anchor, Candidates, Pair, TensorData
from buffers.store.pair_store import PairStore


@dataclass(frozen=True)
class AnchorDraw:
    """An anchor and the condition to make a video of."""

    id: str
    condition_id: str


class AnchorStream:
    """Anchors without end. Of all draws, `positive_share` are positive, exact over time (`buffers.mixing`).

    Every anchor is drawn once before any of its polarity is drawn again, in an order drawn from (seed, polarity,
    epoch). What comes next depends on the seed, the anchors and how many were drawn, so two counters are the state.
    """

    def __init__(self, store: PairStore, *, positive_share: float, seed: int) -> None:
        """Raises ValueError where the store lacks a polarity that is wanted."""
        self._shares = {name: share for name, share in _shares(positive_share).items() if share}
        self._seed = seed
        self._drawn = dict.fromkeys(_shares(positive_share), 0)
        self._anchors: dict[str, list[AnchorDraw]] = {}
        for name in self._shares:
            query = "SELECT id, condition_id FROM anchors WHERE positive = ? ORDER BY id"
            self._anchors[name] = [AnchorDraw(*row) for row in store.rows(query, (name == "positive",))]
            if not self._anchors[name]:
                raise ValueError(f"{store.place} holds no {name} anchor; {self._shares[name]:g} of all are to be such")
        self._orders: dict[str, tuple[int, np.ndarray]] = {}

    def next(self, count: int) -> list[AnchorDraw]:
        """The next `count` draws, the polarities in turn."""
        found = []
        for _ in range(count):
            ((name, _),) = quotas(self._shares, self._drawn, 1).items()
            found.append(self._at(name, self._drawn[name]))
            self._drawn[name] += 1
        return found

    def state(self) -> dict[str, Any]:
        """Plain JSON values; `restore` in a stream made alike goes on exactly here."""
        return {"seed": self._seed, "anchors": self._digest(), "drawn": dict(self._drawn)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Raises ValueError if it is of another seed or of other anchors."""
        for key, value in {"seed": self._seed, "anchors": self._digest()}.items():
            if state.get(key) != value:
                raise ValueError(f"the saved anchor stream has {key} = {state.get(key)}, this run has {value}")
        self._drawn = {name: int(count) for name, count in state["drawn"].items()}

    def _at(self, name: str, number: int) -> AnchorDraw:
        anchors = self._anchors[name]
        epoch, place = divmod(number, len(anchors))
        if self._orders.get(name, (None,))[0] != epoch:
            key = hashlib.sha256(f"{self._seed}/{name}/{epoch}".encode()).digest()[:8]
            rng = np.random.default_rng(int.from_bytes(key, "little"))
            self._orders[name] = epoch, rng.permutation(len(anchors))
        return anchors[self._orders[name][1][place]]

    def _digest(self) -> str:
        ids = "\n".join(f"{name} {anchor.id}" for name, anchors in self._anchors.items() for anchor in anchors)
        return hashlib.sha256(ids.encode()).hexdigest()[:16]


def anchors_of(store: PairStore, condition_id: str) -> list[str]:
    """Ids of the anchors of a condition, the negative ones first."""
    return [
        id_
        for (id_,) in store.rows("SELECT id FROM anchors WHERE condition_id = ? ORDER BY positive, id", (condition_id,))
    ]


def anchored_pairs(anchor: Anchor, candidates: Candidates) -> list[Pair]:
    """The anchor against each of the two generated videos; no ranker is asked.

    Raises ValueError if they are of different conditions, or their latents differ in shape.
    """
    if anchor.condition_id != candidates.condition.id:
        raise ValueError(f"anchor {anchor.id} is of condition {anchor.condition_id}, not of {candidates.condition.id}")
    return [
        _anchored_pair(anchor, candidates, seed, latents)
        for seed, latents in zip(candidates.seeds, (candidates.latents_a, candidates.latents_b), strict=True)
    ]


def _anchored_pair(anchor: Anchor, candidates: Candidates, seed: int, latents: TensorData) -> Pair:
    if latents.shape != anchor.latents.shape:
        raise ValueError(
            f"anchor {anchor.id} has latents of shape {anchor.latents.shape}, the policy makes {latents.shape}: ingest "
            "it at the size and length that is sampled"
        )
    sides: Sequence[tuple[str, TensorData]] = (
        (anchor.video_id, anchor.latents),
        (f"{candidates.condition.id}-{seed}", latents),
    )
    (chosen_id, chosen), (rejected_id, rejected) = sides if anchor.positive else tuple(reversed(sides))
    return Pair(
        id=f"{anchor.id}-{seed}",
        condition_id=anchor.condition_id,
        chosen_id=chosen_id,
        rejected_id=rejected_id,
        chosen=chosen,
        rejected=rejected,
        policy_version=candidates.policy_version,
        source="half-online",
    )


def _shares(positive_share: float) -> dict[str, float]:
    return {"positive": positive_share, "negative": 1.0 - positive_share}
