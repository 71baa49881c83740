"""`apogee data ingest MANIFEST --into STORE`: people's videos and judgements become pairs, anchors and conditions.

The manifest is read whole and checked before anything is encoded; encoding is spread over Ray actors, one portion ahead
of what is being stored. A stored portion is durable, and the same command goes on behind it.
"""

import json
import tempfile
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from math import prod
from pathlib import Path

from actors.encoder import LATENTS, PROMPT_EMBEDS, Encoder
from buffers.people.gathering import Gathered, Item, Skipped
from buffers.people.manifests import SHOWN_PROBLEMS, listed, made_or_why, manifest_folder
from buffers.people.reconcile import Summary, new_items, store_items
from buffers.people.rows import PromptRow, each_row
from buffers.portions import portions
from buffers.store.encoded_by import ENCODED_BY
from buffers.store.pair_store import PairStore
from cluster.checks.bundle import encoded_by
from cluster.checks.plan import sizes_of
from cluster.monitor.progress import Progress
from cluster.on_ray.pool import Pool, pool
from configs.schema import RunConfig
from policy.bundle import BundleFacts, check_bundle

ROWS_AT_ONCE = 1024
PORTION_BYTES = 1 << 28
"""Latents in one append; as many again are being encoded meanwhile."""
MOST_ITEMS, VIDEOS_A_CALL, PROMPTS_A_CALL = 256, 4, 16

Calls = list[tuple[list[tuple[str, str]], Future]]
"""Kind and id of everything that a call encodes, and the call."""


def ingest(config: RunConfig, manifest: Path, into: str, *, skip_bad_rows: bool) -> Summary:
    """Stores what is not there yet; `model`, `sampling`, `generator` (resources) and `cluster` of the config are used.

    Raises FileNotFoundError or ValueError before anything is encoded where bundle, manifest or, unless `skip_bad_rows`,
    a row is wrong, or the store is of another bundle; BlockingIOError where another process writes to it.
    """
    facts, sampling = check_bundle(config.model.path), config.sampling
    shape = facts.latent_shape(sampling.num_frames, *sizes_of(sampling, grid=facts.grid)[0])
    cut = f"{sampling.width} x {sampling.height}"
    if sampling.pixels is not None:
        offered = ", ".join(f"{wide}:{high}" for wide, high in sampling.aspects)
        aspects = f"the nearest aspect of {offered}" if offered else "their own aspect"
        cut = f"about {sampling.pixels} pixels of {aspects}"
    read = each_row(manifest, max_characters=config.prompts.max_characters)
    rows = ((number, made_or_why(_of_bundle, facts, row)) for number, row in read)
    parts = encoded_by(facts, max_text_tokens=config.model.max_text_tokens)
    rule = f"{sampling.num_frames} frames at {sampling.fps:g}, {cut}"
    print(
        f"each video: its first {sampling.num_frames} frames at {sampling.fps:g} a second "
        f"({sampling.num_frames / sampling.fps:.2f} s), scaled until they cover {cut}, "
        f"the middle cut out; latents {' x '.join(map(str, shape))} in {config.model.dtype}",
        flush=True,
    )
    summary = Summary()
    with ExitStack() as stack:
        store = PairStore(into, encoded_by=parts)
        stack.callback(store.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apogee-ingest-")))
        progress = stack.enter_context(Progress(0, unit="item"))
        gathered = Gathered(folder / "gathered.sqlite", rule=rule)
        stack.callback(gathered.close)
        progress.phase("reading the manifest")
        count = bad = 0
        for some in portions(rows, ROWS_AT_ONCE):
            problems = [Skipped((number,), why) for number, why in some if isinstance(why, str)]
            problems += gathered.add({number: row for number, row in some if not isinstance(row, str)})
            problems.sort(key=lambda problem: problem.rows)
            count, bad = count + len(some), bad + len(problems)
            # A manifest of a million rows may be bad in all of them.
            summary.skipped += problems if skip_bad_rows else problems[: SHOWN_PROBLEMS - len(summary.skipped)]
            progress.update(rows=f"{count:,}", bad=f"{bad:,}")
        if not count:
            raise ValueError(f"{manifest} holds no rows")
        if bad and not skip_bad_rows:
            shown = [f"{manifest}, row {problem.rows[0]}: {problem.why}" for problem in summary.skipped]
            raise ValueError(f"{listed(shown, of='rows', count=bad)}\nNothing was stored.")
        exact = _exact(manifest, parts)
        about = {"summary": summary, "progress": progress}
        _encode_and_store(config, store, gathered, **about, exact=exact, shape=shape, logs=folder)
        summary.repeated = gathered.repeated
    summary.kappa = {name: agreement.kappa for name, agreement in gathered.kappa.items()}
    return summary


def _of_bundle(facts: BundleFacts, row: PromptRow | str) -> PromptRow | str:
    """Raises ValueError if the row has a first frame, and the bundle's videos begin with none, or the reverse."""
    if not isinstance(row, str):
        facts.check_first_frame(row.prompt, given=row.first_frame is not None)
    return row


def _encode_and_store(
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
    progress.phase("encoding", total=gathered.count)
    done = 0
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
    videos = {video.id: replace(video, shaped_as=_shape_of(item)) for item in items for video in item.videos}
    conditions = {item.condition.id: item.condition for item in items}
    calls: Calls = []
    for kind, method, files, count in (
        ("latents", "videos", videos, VIDEOS_A_CALL),
        ("conditionings", "conditions", conditions, PROMPTS_A_CALL),
    ):
        for ids in portions(sorted(files.keys() - store.catalog.known(kind, files)), count):
            calls.append(([(kind, id_) for id_ in ids], encoders.call(method, [files[id_] for id_ in ids])))
    return calls


def _shape_of(item: Item) -> Path | None:
    """The file whose aspect all videos of an item get: its first frame, or its first video."""
    return item.condition.first_frame or next((video.file for video in item.videos), None)


def _exact(manifest: Path, parts: dict[str, str]) -> set[str]:
    """Which exact tensors beside the manifest are of this bundle; `export` leaves word of what they were made for."""
    try:
        exported = json.loads((manifest_folder(manifest) / ENCODED_BY).read_text())
    except (OSError, ValueError):
        return set()
    needed = {LATENTS: ("size of latents", "VAE"), PROMPT_EMBEDS: ("text encoder", "model.max_text_tokens")}
    return {name for name, keys in needed.items() if all(exported.get(key) == parts[key] for key in keys)}
