"""From a manifest's items to the store, portion by portion: what is there is compared, what is new is encoded."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, cast

import ray

from actors.encoder import Encoder
from buffers.people.gathering import Gathered, Item, Skipped
from buffers.records import Anchor, Pair, Source, TensorData
from buffers.store.pair_store import PairStore
from cluster.monitor.progress import Progress
from cluster.on_ray.pool import pool
from configs.schema import RunConfig

PORTION_BYTES = 1 << 28
"""Of latents in one append, and as much again is being encoded meanwhile."""
MOST_ITEMS, VIDEOS_A_CALL, PROMPTS_A_CALL = 256, 4, 16

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


class Portions:
    """Has the items of a manifest encoded on Ray actors and stores them; one portion is encoded ahead."""

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

    def store_all(self, shape: tuple[int, ...]) -> None:
        """`shape`: of the latents of one video. Raises as `PairStore.append` does; what was stored stays."""
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
        new, items = [], [item for item in portion if isinstance(item, Item)]
        for kind, table in (("pair", "pairs"), ("anchor", "anchors"), ("prompt", "conditionings")):
            some = [item for item in items if item.kind == kind]
            known = self._store.catalog.known(table, map(_stored_id, some))
            new += [item for item in some if _stored_id(item) not in known]
            there = [item for item in some if _stored_id(item) in known]
            self._summary.there += len(there)
            if kind == "pair":
                self._correct(there)
            elif kind == "anchor":
                self._compare(there)
        return sorted(new, key=lambda item: item.rows)

    def _correct(self, items: list[Item]) -> None:
        """Gives stored pairs what the manifest says of them now."""
        stored, verdicts = self._store.judged([item.id for item in items]), {}
        for item in items:
            judged, verdict = stored[item.id], item.verdict
            if {*item.videos} != {judged.chosen_id, judged.rejected_id}:
                self._skip(item, f"id {item.id!r} is that of another pair in the store")
            elif verdict is not None:
                # A correction is about the two in the order of the pair that is stored.
                a_id = item.videos[0] if verdict.a_is_chosen else item.videos[1]
                verdict = verdict if a_id == judged.in_order[0] else verdict.swapped()
                if verdict != judged.verdict:
                    verdicts[item.id] = verdict
            elif item.videos[0] != judged.chosen_id:
                self._skip(item, "is stored with the other video as chosen; a label would correct it, a choice cannot")
        if verdicts:
            self._store.correct(verdicts)
            self._summary.corrected += len(verdicts)

    def _compare(self, items: list[Item]) -> None:
        """Anchors cannot be corrected; what says otherwise is told."""
        stored = {anchor.id: anchor for anchor in self._store.catalog.anchors(item.id for item in items)}
        for item in items:
            video_id, positive = stored[item.id].video_id, stored[item.id].positive
            if video_id != item.videos[0]:
                self._skip(item, f"id {item.id!r} is that of another anchor in the store")
            elif positive != item.positive:
                self._skip(item, f"is stored as {'positive' if positive else 'negative'}; an anchor is not corrected")

    def _skip(self, item: Item, why: str) -> None:
        self._summary.skipped.append(Skipped(item.rows, why))

    def _submit(self, items: list[Item], ahead: Answers) -> Answers:
        """Has everything encoded that the items need and that is neither stored nor under way for the portion ahead."""
        videos = {id_ for item in items for id_ in item.videos}
        conditions = {_condition_key(item): item for item in items}
        answers = {key: ahead[key] for key in videos | conditions.keys() if key in ahead}
        new = sorted(videos - answers.keys() - self._store.catalog.known("latents", videos))
        for start in range(0, len(new), VIDEOS_A_CALL):
            some = new[start : start + VIDEOS_A_CALL]
            answer = self._next().videos.remote([self._gathered.video(id_) for id_ in some])
            answers |= {id_: (answer, place) for place, id_ in enumerate(some)}
        stored = self._store.catalog.known("conditionings", (item.condition.id for item in items))
        given = {
            key: item for key, item in conditions.items() if key not in answers and item.condition.id not in stored
        }
        keys = list(given)
        for start in range(0, len(keys), PROMPTS_A_CALL):
            some = keys[start : start + PROMPTS_A_CALL]
            answer = self._next().conditions.remote([(given[key].condition, given[key].files) for key in some])
            answers |= {key: (answer, place) for place, key in enumerate(some)}
        return answers

    def _next(self) -> Any:
        self._calls += 1
        return self._encoders[self._calls % len(self._encoders)]

    def _store_portion(self, items: list[Item], answers: Answers) -> None:
        """Waits for what was asked for and stores every item that has all it needs."""
        whole = {answer: ray.get(answer) for answer in {answer for answer, _ in answers.values()}}
        made = {key: whole[answer][place] for key, (answer, place) in answers.items()}
        others = {id_ for item in items for id_ in item.videos} - made.keys()
        made |= self._store.latents(self._store.catalog.known("latents", others))
        usable = [item for item in self._first_of_each(items) if not self._skipped(item, made)]
        conditionings = {key: made[key] for key in map(_condition_key, usable) if key in made}
        self._store.append(
            [_pair(item, made) for item in usable if item.kind == "pair"],
            list(conditionings.values()),
            [_anchor(item, made) for item in usable if item.kind == "anchor"],
        )
        for item in usable:
            self._summary.new[item.kind] += 1

    def _first_of_each(self, items: list[Item]) -> list[Item]:
        """Without those whose id was given to another item before, in this portion or the last."""
        first: dict[tuple[str, str], Item] = {}
        taken = {(kind, id_) for kind in ("pair", "anchor") for id_ in self._taken(kind, items)}
        for item in items:
            if item.kind != "prompt" and ((item.kind, item.id) in taken or (item.kind, item.id) in first):
                self._skip(item, f"id {item.id!r} is given to another row, too")
            else:
                first[item.kind, item.id] = item
        return [*first.values()]

    def _taken(self, kind: str, items: list[Item]) -> set[str]:
        return self._store.catalog.known(f"{kind}s", (item.id for item in items if item.kind == kind))

    def _skipped(self, item: Item, made: Mapping[str, Any]) -> bool:
        parts = [made[key] for key in (*item.videos, _condition_key(item)) if key in made]
        problems = [part for part in parts if isinstance(part, str)]
        shapes = {part.shape for part in parts if isinstance(part, TensorData)}
        if len(shapes) > 1:
            problems.append(f"its two videos' latents differ in shape: {' and '.join(map(str, sorted(shapes)))}")
        if problems:
            self._skip(item, problems[0])
        return bool(problems)


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
