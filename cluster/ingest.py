"""`apogee data ingest MANIFEST --into STORE`: people's videos and judgements become pairs, anchors and conditions.

The manifest is read whole and checked before anything is encoded; encoding is spread over Ray actors, one portion ahead
of what is being stored. A stored portion is durable, and the same command goes on behind it.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, cast

import ray

from actors.encoder import LATENTS, PROMPT_EMBEDS, Encoder
from actors.made_for import made_for
from buffers.entries import Entry, read_entry
from buffers.gathering import Gathered, Item, Skipped
from buffers.manifests import manifest_folder, read_rows
from buffers.records import Anchor, Pair, Source, TensorData
from buffers.store import MADE_FOR, PairStore
from cluster.encoders import pool
from cluster.progress import Progress
from configs.schema import RunConfig
from policy.bundle_check import check_bundle

PORTION_BYTES = 1 << 28
"""Of latents in one append, and as much again is being encoded meanwhile."""
MOST_ITEMS, VIDEOS_A_CALL, ROWS_AT_ONCE = 256, 4, 1024
SHOWN_PROBLEMS = 10

Answers = dict[str, tuple[Any, int]]
"""Video id or condition -> the call that it is encoded in, and its place there."""


@dataclass
class Summary:
    """What an ingestion came to. `skipped`: rows that nothing is stored of, with the reasons."""

    new: dict[str, int] = field(default_factory=lambda: {"pair": 0, "anchor": 0, "prompt": 0})
    there: int = 0
    corrected: int = 0
    repeated: int = 0
    kappa: dict[str, float | None] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def ingest(config: RunConfig, manifest: Path, into: str, *, skip_bad_rows: bool) -> Summary:
    """Stores what is not there yet; `model`, `sampling`, `generator` (resources) and `cluster` of the config are used.

    Raises FileNotFoundError or ValueError before anything is encoded where bundle, manifest or, unless `skip_bad_rows`,
    a row is wrong, or the store is of another bundle; BlockingIOError where another process writes to it.
    """
    facts, sampling = check_bundle(config.model.path), config.sampling
    shape = facts.latent_shape(sampling.num_frames, sampling.height, sampling.width)
    rows = read_rows(manifest)
    belongs = made_for(facts, max_text_tokens=config.model.max_text_tokens)
    rule = f"{sampling.num_frames} frames at {sampling.fps:g}, {sampling.width} x {sampling.height}"
    print(
        f"each video: its first {sampling.num_frames} frames at {sampling.fps:g} a second "
        f"({sampling.num_frames / sampling.fps:.2f} s), scaled until they cover {sampling.width} x {sampling.height}, "
        f"the middle cut out; latents {' x '.join(map(str, shape))} in {config.model.dtype}",
        flush=True,
    )
    summary = Summary()
    with ExitStack() as stack:
        store = PairStore(into, made_for=belongs)
        stack.callback(store.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apogee-ingest-")))
        progress = stack.enter_context(Progress(0, unit="item"))
        gathered = Gathered(folder / "gathered.sqlite", rule=rule)
        stack.callback(gathered.close)
        progress.phase("reading the manifest")
        for count, entries in _entries(rows, manifest, config, summary.skipped):
            gathered.add(entries)
            progress.update(rows=f"{count:,}", bad=f"{len(summary.skipped):,}")
        if summary.skipped and not skip_bad_rows:
            raise ValueError(_listed(manifest, summary.skipped))
        _Ingestion(config, store, gathered, summary, progress, _exact(manifest, belongs), folder).run(shape)
        summary.repeated = gathered.repeated
    summary.kappa = {name: agreement.kappa for name, agreement in gathered.kappa.items()}
    return summary


class _Ingestion:
    """From items to the store, portion by portion."""

    def __init__(
        self,
        config: RunConfig,
        store: PairStore,
        gathered: Gathered,
        summary: Summary,
        progress: Progress,
        exact: set[str],
        folder: Path,
    ) -> None:
        self._config, self._store, self._gathered, self._summary = config, store, gathered, summary
        self._progress, self._exact, self._folder = progress, exact, folder
        self._encoders: list[Any] = []
        self._calls = 0

    def run(self, shape: tuple[int, ...]) -> None:
        count = max(1, min(MOST_ITEMS, PORTION_BYTES // (2 * 4 * prod(shape))))
        items, done = self._gathered.items(), 0
        self._progress.phase("encoding")
        self._progress.total = self._gathered.count
        with ExitStack() as stack:
            ahead: tuple[list[Item], Answers] = [], {}
            while portion := list(islice(items, count)):
                new = self._new(portion)
                if new and not self._encoders:
                    self._encoders = stack.enter_context(self._pool())
                following = new, self._submit(new, ahead[1])
                if ahead[0]:
                    self._store_portion(*ahead)
                done += len(portion) - len(new) + len(ahead[0])
                self._show(done)
                ahead = following
            if ahead[0]:
                self._store_portion(*ahead)
            self._show(done + len(ahead[0]))

    def _pool(self) -> AbstractContextManager[list[Any]]:
        config, sampling = self._config, self._config.sampling
        model = config.model.model_copy(update={"path": str(Path(config.model.path).resolve())})
        return pool(config, Encoder, model, sampling, exact=self._exact, logs=self._folder)

    def _show(self, done: int) -> None:
        stored = sum(self._summary.new.values())
        self._progress.update(step=done, stored=f"{stored:,}", skipped=f"{len(self._summary.skipped):,}")

    def _new(self, portion: list[Item | Skipped]) -> list[Item]:
        """What is not stored yet; the others are counted, and corrected where the manifest says otherwise now."""
        self._summary.skipped += [item for item in portion if isinstance(item, Skipped)]
        items = [item for item in portion if isinstance(item, Item)]
        there: set[str] = set()
        for kind, table in (("pair", "pairs"), ("anchor", "anchors"), ("prompt", "conditionings")):
            some = {_stored_id(item): item for item in items if item.kind == kind}
            known = self._store.known(some, table)
            there |= {f"{kind} {id_}" for id_ in known}
            if kind == "pair":
                self._correct([some[id_] for id_ in known])
        self._summary.there += len(there)
        return [item for item in items if f"{item.kind} {_stored_id(item)}" not in there]

    def _correct(self, items: list[Item]) -> None:
        stored = {pair.id: pair for pair in self._store.read([item.id for item in items])}
        verdicts = {}
        for item in items:
            pair, verdict = stored[item.id], item.verdict
            if verdict is not None:
                # A correction is about the two in the order of the pair that is stored.
                a_id = item.videos[0] if verdict.a_is_chosen else item.videos[1]
                verdict = verdict if a_id == pair.in_order[0] else verdict.swapped()
                if verdict != pair.verdict:
                    verdicts[item.id] = verdict
            elif item.videos[0] != pair.chosen_id:
                why = "is stored with the other video as chosen; a label (1 to 4) would correct it, a choice cannot"
                self._summary.skipped.append(Skipped(item.rows, why))
        if verdicts:
            self._store.correct(verdicts)
            self._summary.corrected += len(verdicts)

    def _submit(self, items: list[Item], ahead: Answers) -> Answers:
        """Has everything encoded that the items need and that is neither stored nor under way for the portion ahead."""
        videos = {id_ for item in items for id_ in item.videos}
        conditions = {_condition_key(item): item for item in items}
        answers = {key: ahead[key] for key in videos | conditions.keys() if key in ahead}
        new = sorted(videos - answers.keys() - self._store.known(videos, "latents"))
        for start in range(0, len(new), VIDEOS_A_CALL):
            some = new[start : start + VIDEOS_A_CALL]
            answer = self._next().videos.remote([self._gathered.video(id_) for id_ in some])
            answers |= {id_: (answer, place) for place, id_ in enumerate(some)}
        stored = self._store.known((item.condition.id for item in items), "conditionings")
        given = {
            key: item for key, item in conditions.items() if key not in answers and item.condition.id not in stored
        }
        if given:
            answer = self._next().conditions.remote([(item.condition, item.files) for item in given.values()])
            answers |= {key: (answer, place) for place, key in enumerate(given)}
        return answers

    def _next(self) -> Any:
        self._calls += 1
        return self._encoders[self._calls % len(self._encoders)]

    def _store_portion(self, items: list[Item], answers: Answers) -> None:
        """Waits for what was asked for and stores every item that has all it needs."""
        whole = {answer: ray.get(answer) for answer in {answer for answer, _ in answers.values()}}
        made = {key: whole[answer][place] for key, (answer, place) in answers.items()}
        others = {id_ for item in items for id_ in item.videos} - made.keys()
        made |= self._store.latents(self._store.known(others, "latents"))
        usable = [item for item in items if not self._skipped(item, made)]
        conditionings = {key: made[key] for key in map(_condition_key, usable) if key in made}
        self._store.append(
            [_pair(item, made) for item in usable if item.kind == "pair"],
            list(conditionings.values()),
            [_anchor(item, made) for item in usable if item.kind == "anchor"],
        )
        for item in usable:
            self._summary.new[item.kind] += 1

    def _skipped(self, item: Item, made: Mapping[str, Any]) -> bool:
        parts = [made[key] for key in (*item.videos, _condition_key(item)) if key in made]
        problems = [part for part in parts if isinstance(part, str)]
        shapes = {part.shape for part in parts if isinstance(part, TensorData)}
        if len(shapes) > 1:
            problems.append(f"its two videos' latents differ in shape: {' and '.join(map(str, sorted(shapes)))}")
        self._summary.skipped += [Skipped(item.rows, problem) for problem in problems[:1]]
        return bool(problems)


def _entries(
    rows: Iterator[Any], manifest: Path, config: RunConfig, skipped: list[Skipped]
) -> Iterator[tuple[int, list[Entry]]]:
    """How many rows were read so far, and the good ones of the last portion."""
    folder, count = manifest_folder(manifest), 0
    while some := list(islice(rows, ROWS_AT_ONCE)):
        entries = []
        for row in some:
            try:
                entries.append(read_entry(row, folder, max_characters=config.prompts.max_characters))
            except (ValueError, OSError) as error:
                skipped.append(Skipped((row.number,), str(error)))
        count += len(some)
        yield count, entries
    if not count:
        raise ValueError(f"{manifest} holds no rows")


def _exact(manifest: Path, belongs: dict[str, str]) -> set[str]:
    """Which exact tensors beside the manifest are of this bundle; `export` leaves word of what they were made for."""
    try:
        exported = json.loads((manifest_folder(manifest) / MADE_FOR).read_text())
    except (OSError, ValueError):
        return set()
    parts = {LATENTS: ("size of latents", "VAE"), PROMPT_EMBEDS: ("text encoder", "model.max_text_tokens")}
    return {name for name, keys in parts.items() if all(exported.get(key) == belongs[key] for key in keys)}


def _listed(manifest: Path, skipped: list[Skipped]) -> str:
    lines = [f"{manifest}, row {problem.rows[0]}: {problem.why}" for problem in skipped[:SHOWN_PROBLEMS]]
    more = len(skipped) - len(lines)
    return "\n".join([*lines, *([f"and {more:,} more bad rows"] if more else []), "Nothing was stored."])


def _stored_id(item: Item) -> str:
    return item.condition.id if item.kind == "prompt" else item.id


def _condition_key(item: Item) -> str:
    """Its condition among what is being encoded; no video is called so."""
    return f"condition {item.condition.id}"


def _pair(item: Item, made: Mapping[str, Any]) -> Pair:
    chosen, rejected = item.videos
    return Pair(
        id=item.id,
        condition_id=item.condition.id,
        chosen_id=chosen,
        rejected_id=rejected,
        chosen=made[chosen],
        rejected=made[rejected],
        policy_version=item.policy_version,
        source=cast(Source, item.source),
        verdict=item.verdict,
    )


def _anchor(item: Item, made: Mapping[str, Any]) -> Anchor:
    (video,) = item.videos
    return Anchor(item.id, item.condition.id, video, item.positive, made[video])
