"""From a manifest's items to the store, portion by portion; one portion is encoded while the last one is stored."""

from concurrent.futures import Future
from contextlib import ExitStack
from itertools import chain
from math import prod
from pathlib import Path

from actors.encoder import Encoder
from buffers.people.gathering import Gathered, Item
from buffers.people.reconcile import Summary, new_items, store_items
from buffers.portions import portions
from buffers.store.pair_store import PairStore
from cluster.monitor.progress import Progress
from cluster.on_ray.pool import Pool, pool
from configs.schema import RunConfig

PORTION_BYTES = 1 << 28
"""Latents in one append; as many again are being encoded meanwhile."""
MOST_ITEMS, VIDEOS_A_CALL, PROMPTS_A_CALL = 256, 4, 16

Calls = list[tuple[list[tuple[str, str]], Future]]
"""Kind and id of everything that a call encodes, and the call."""


def encode_and_store(
    config: RunConfig,
    store: PairStore,
    gathered: Gathered,
    *,
    summary: Summary,
    progress: Progress,
    exact: set[str],
    shape: tuple[int, ...],
    logs: Path,
) -> None:
    """Encodes on Ray actors what is new, and counts it in `summary`. Ray is not started if nothing is new.

    `exact`: which exact tensors are this bundle's (`Encoder`). `shape`: of the latents of one video. Raises as
    `PairStore.append` does; what was stored stays.
    """
    count = max(1, min(MOST_ITEMS, PORTION_BYTES // (2 * 4 * prod(shape))))
    progress.phase("encoding")
    progress.total, done = gathered.count, 0
    encoders: Pool | None = None
    items: list[Item] = []
    calls: Calls = []
    with ExitStack() as stack:
        # The empty portion has the last one stored.
        for portion in chain(portions(gathered.items(), count), [[]]):
            new = new_items(store, portion, summary)
            if new and encoders is None:
                encoders = stack.enter_context(pool(config, Encoder, config.sampling, exact=exact, logs=logs))
            following = _encode(encoders, store, new) if encoders else []
            if items:
                encoded = {key: part for keys, call in calls for key, part in zip(keys, call.result(), strict=True)}
                store_items(store, items, encoded, summary)
            done += len(portion) - len(new) + len(items)
            stored = sum(summary.new.values())
            progress.update(step=done, stored=f"{stored:,}", skipped=f"{len(summary.skipped):,}")
            items, calls = new, following


def _encode(encoders: Pool, store: PairStore, items: list[Item]) -> Calls:
    """Calls for everything that the items need and that is not stored."""
    videos = {video.id: video for item in items for video in item.videos}
    conditions = {item.condition.id: item.condition for item in items}
    calls: Calls = []
    for kind, method, files, count in (
        ("latents", "videos", videos, VIDEOS_A_CALL),
        ("conditionings", "conditions", conditions, PROMPTS_A_CALL),
    ):
        for ids in portions(sorted(files.keys() - store.catalog.known(kind, files)), count):
            calls.append(([(kind, id_) for id_ in ids], encoders.call(method, [files[id_] for id_ in ids])))
    return calls
