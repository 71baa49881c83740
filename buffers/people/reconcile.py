"""A manifest's items and a store: what is new, what is corrected, and what cannot be stored."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from buffers.people.gathering import Item, Skipped
from buffers.records import Anchor, Pair, TensorData
from buffers.store.pair_store import PairStore
from configs.keys import shown

KINDS = {"pair": "pairs", "anchor": "anchors", "prompt": "conditionings"}
"""Kind of an item -> kind of what is stored."""


@dataclass
class Summary:
    """What an ingestion came to. `skipped`: rows of which nothing is stored, with the reasons."""

    new: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    there: int = 0
    corrected: int = 0
    repeated: int = 0
    kappa: dict[str, float | None] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, item: Item, why: str) -> None:
        self.skipped.append(Skipped(item.rows, why))


def new_items(store: PairStore, items: Sequence[Item | Skipped], summary: Summary) -> list[Item]:
    """The items that are not stored yet, in order. A stored pair is corrected if its verdict is another one now."""
    summary.skipped += [item for item in items if isinstance(item, Skipped)]
    new: list[Item] = []
    for kind, stored_kind in KINDS.items():
        some = {item.id: item for item in items if isinstance(item, Item) and item.kind == kind}
        known = store.catalog.known(stored_kind, some)
        new += [item for item in some.values() if item.id not in known]
        summary.there += len(known)
        stored = [item for item in some.values() if item.id in known]
        if kind == "pair":
            _correct(store, stored, summary)
        elif kind == "anchor":
            _compare(store, stored, summary)
    return sorted(new, key=lambda item: item.rows)


def store_items(store: PairStore, items: Iterable[Item], encoded: Mapping[Any, Any], summary: Summary) -> None:
    """Stores every item that has all it needs, in one append. Raises as `PairStore.append` does.

    `encoded`: kind and id -> what was encoded (`TensorData`, `EncodedCondition`), or a text that says why it could not
    be. What is not in it is in the store already.
    """
    given = {id_: each for (kind, id_), each in encoded.items() if kind == "latents"}
    videos: dict[str, Any] = store.latents({id_ for item in items for id_ in item.video_ids} - given.keys()) | given
    usable = [item for item in items if not _unusable(item, videos, encoded, summary)]
    keys = {("conditionings", item.condition.id) for item in usable} & encoded.keys()
    pairs: list[Pair] = []
    anchors: list[Anchor] = []
    for item in usable:
        ids, latents = item.video_ids, [videos[id_] for id_ in item.video_ids]
        if item.kind == "pair":
            facts = (item.policy_version, item.source, item.verdict)
            pairs.append(Pair(item.id, item.condition.id, ids[0], ids[1], latents[0], latents[1], *facts))
        elif item.kind == "anchor":
            anchors.append(Anchor(item.id, item.condition.id, ids[0], item.positive, latents[0]))
        summary.new[item.kind] += 1
    store.append(pairs, [encoded[key] for key in sorted(keys)], anchors)


def _correct(store: PairStore, items: Sequence[Item], summary: Summary) -> None:
    """Gives stored pairs the verdicts that the manifest has now."""
    stored, verdicts = store.judged([item.id for item in items]), {}
    for item in items:
        judged, verdict = stored[item.id], item.verdict
        if {*item.video_ids} != {judged.chosen_id, judged.rejected_id}:
            summary.skip(item, f"id {shown(item.id)} is that of another pair in the store")
        elif verdict is not None:
            # A correction is about A and B in the order of the stored pair.
            a_id = item.video_ids[0] if verdict.a_is_chosen else item.video_ids[1]
            verdict = verdict if a_id == judged.in_order[0] else verdict.swapped()
            if verdict != judged.verdict:
                verdicts[item.id] = verdict
        elif item.video_ids[0] != judged.chosen_id:
            summary.skip(item, "is stored with the other video as chosen; a label would correct it, a choice cannot")
    store.correct(verdicts)
    summary.corrected += len(verdicts)


def _compare(store: PairStore, items: Sequence[Item], summary: Summary) -> None:
    """Anchors cannot be corrected; one that differs from the stored one is skipped."""
    stored = {anchor.id: anchor for anchor in store.catalog.anchors(item.id for item in items)}
    for item in items:
        anchor = stored[item.id]
        if anchor.video_id != item.video_ids[0]:
            summary.skip(item, f"id {shown(item.id)} is that of another anchor in the store")
        elif anchor.positive != item.positive:
            polarity = "positive" if anchor.positive else "negative"
            summary.skip(item, f"is stored as {polarity}; an anchor is not corrected")


def _unusable(item: Item, videos: Mapping[str, Any], encoded: Mapping[Any, Any], summary: Summary) -> bool:
    parts = [*(videos[id_] for id_ in item.video_ids), encoded.get(("conditionings", item.condition.id))]
    problems = [part for part in parts if isinstance(part, str)]
    shapes = {part.shape for part in parts if isinstance(part, TensorData)}
    if len(shapes) > 1:
        problems.append(f"its two videos' latents differ in shape: {' and '.join(map(str, sorted(shapes)))}")
    if problems:
        summary.skip(item, problems[0])
    return bool(problems)
