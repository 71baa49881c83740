"""The page on in-process handles: real buffer, weight store and learner loop; fake generator, ranker and learner."""

import asyncio
import gc
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.streams import PromptStream
from buffers.records import (
    Batch,
    Candidates,
    CandidateVideos,
    Condition,
    EncodedCondition,
    Receipt,
    Request,
    Slot,
    Snapshot,
    TensorData,
    Verdict,
)
from buffers.replay import ReplayBuffer
from buffers.weight_store import WeightStore
from cluster import online_loop
from cluster.handles import InProcessHandle
from cluster.learn_steps import in_thread, learn_steps
from configs.sections import BufferConfig

PAIRS_PER_STEP = 4
CONDITIONS = [Condition(f"c{index}", f"prompt {index}", "general") for index in range(6)]


def tensor(value: int) -> TensorData:
    return TensorData("uint8", (1,), np.array([value % 256], np.uint8))


def snapshot(version: int) -> Snapshot:
    return Snapshot(version, {"transformer.lora_A": tensor(version)}, f"sum of {version}")


@dataclass
class FakeGenerator:
    version: int = -1
    wrong: dict[str, Any] = field(default_factory=dict)
    fails_at: int | None = None
    poison: str | None = None
    requests: int = 0
    loads: list[int] = field(default_factory=list)

    def load_weights(self, snapshot: Snapshot) -> Receipt:
        self.version = snapshot.version
        self.loads.append(snapshot.version)
        honest = {"version": snapshot.version, "parameters": 1, "checksum": snapshot.checksum}
        return Receipt(**{**honest, **self.wrong})

    def generate(self, request: Request) -> tuple[list[Candidates], list[CandidateVideos], int]:
        assert self.version >= 0, "asked to generate before it was given weights"
        self.requests += 1
        if self.requests == self.fails_at or self.poison in [condition.id for condition in request.conditions]:
            raise ArithmeticError("the generator broke")
        candidates, clips = [], []
        for condition, seeds in zip(request.conditions, request.seeds, strict=True):
            conditioning = EncodedCondition(condition, tensor(0))
            a, b = seeds
            candidates.append(Candidates(condition, conditioning, (a, b), tensor(1), tensor(2), self.version))
            clips.append(
                CandidateVideos(condition, np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2, 3), np.uint8), 8.0, 0)
            )
        return candidates, clips, len(clips)


class FakeRanker:
    def __init__(self, *, fails: int = 0, hangs: bool = False) -> None:
        self.asked, self.fails, self.hangs = 0, fails, hangs

    async def times(self) -> int:
        if self.hangs:
            await asyncio.Event().wait()
        return 0

    def rank(self, clips: list[CandidateVideos]) -> list[Verdict]:
        self.asked += 1
        if self.asked <= self.fails:
            raise ArithmeticError("the ranker broke")
        probabilities = (0.97, 0.01, 0.01, 0.01)
        return [Verdict(1, probabilities, 1.0, True, 1, None, "general", "1", "fake") for _ in clips]


class FakeLearner:
    def __init__(self, *, fails_at: int | None = None, seconds: float = 0.0) -> None:
        self.steps, self.batches, self._fails_at, self._seconds = 0, [], fails_at, seconds

    def step(self, batch: Batch) -> dict[str, float]:
        if self.steps == self._fails_at:
            raise FloatingPointError("the loss is not finite")
        time.sleep(self._seconds)
        self.steps += 1
        self.batches.append(batch)
        return {"loss": 0.5}

    def snapshot(self, version: int) -> Snapshot:
        return snapshot(version)


@dataclass
class Scene:
    """One run in this process; what happened stays on it."""

    folder: Path
    generators: list[FakeGenerator] = field(default_factory=lambda: [FakeGenerator(), FakeGenerator()])
    rankers: list[FakeRanker] = field(default_factory=lambda: [FakeRanker(), FakeRanker()])
    learner: FakeLearner = field(default_factory=FakeLearner)
    capacity: int = 8
    max_staleness: int = 1
    requests_in_flight: int = 2
    steps: int = 6
    saves: int = 0
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def run(self, **options: Any) -> int:
        return asyncio.run(asyncio.wait_for(self._run(**options), 60))

    async def _run(self, **options: Any) -> int:
        loop = asyncio.get_running_loop()
        config = BufferConfig(capacity=self.capacity, max_staleness=self.max_staleness)
        of_steps: Any = {"pairs_per_step": PAIRS_PER_STEP, "publish_every": 1}
        self.buffer = ReplayBuffer(config, folder=self.folder / "buffer", seed=0, **of_steps)
        self.store = WeightStore(put=lambda snapshot: snapshot)

        def call(coroutine: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

        def publish(snapshot: Snapshot) -> None:
            call(self.buffer.advance(call(self.store.publish(snapshot))))

        def learn() -> int:
            return learn_steps(
                self.learner,
                steps=self.steps,
                first_version=0,
                publish_every=1,
                checkpoint_every=4,
                take=lambda step: call(self.buffer.take(step, PAIRS_PER_STEP)),
                publish=publish,
                save=self._save,
                record=lambda kind, row: self.rows.append((kind, row)),
            )

        self.handles = [InProcessHandle(generator) for generator in self.generators]
        before = set(asyncio.all_tasks())
        try:
            return await online_loop.run(
                requests=PromptStream(CONDITIONS, per_request=2, seed=0),
                conditions_per_request=2,
                generators=self.handles,
                rankers=[InProcessHandle(ranker) for ranker in self.rankers],
                buffer=InProcessHandle(self.buffer),
                weights=InProcessHandle(self.store),
                learn=lambda: in_thread(learn),
                requests_in_flight=self.requests_in_flight,
                **options,
            )
        finally:
            for _ in range(20):  # what was on its way inside a handle may come to its end
                await asyncio.sleep(0)
            self.left_over = [task for task in asyncio.all_tasks() - before if "produce" in repr(task)]

    def _save(self, version: int, stopped: bool, published: Snapshot | None) -> None:
        self.saves += 1


def test_the_loop_learns_until_the_steps_are_done(tmp_path: Path):
    scene = Scene(tmp_path)
    assert scene.run() == 6
    assert [batch.step for batch in scene.learner.batches] == [0, 1, 2, 3, 4, 5]
    assert all(len(batch.pairs) == PAIRS_PER_STEP for batch in scene.learner.batches)
    assert all(generator.requests for generator in scene.generators)
    assert all(ranker.asked for ranker in scene.rankers)
    assert scene.saves == 2  # at step 4, and at the end
    assert scene.left_over == []


def test_generators_take_rising_versions_and_the_first_one_before_anything_else(tmp_path: Path):
    scene = Scene(tmp_path)
    scene.run()
    for generator in scene.generators:
        assert generator.loads[0] == 0
        assert generator.loads == sorted(set(generator.loads))
    assert max(max(generator.loads) for generator in scene.generators) >= 2


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_no_pair_is_learned_from_that_is_further_behind_than_max_staleness(tmp_path: Path, bound: int):
    scene = Scene(tmp_path, max_staleness=bound, steps=8)
    scene.run()
    for batch in scene.learner.batches:
        # Published after n steps is version n: what a pair of step n was behind is known without the buffer's word.
        assert all(batch.step - pair.policy_version <= bound for pair in batch.pairs)
        assert max(batch.staleness) <= bound


def test_generation_waits_for_a_slow_learner(tmp_path: Path):
    scene = Scene(tmp_path, learner=FakeLearner(seconds=0.03), capacity=8, max_staleness=100, steps=5)
    scene.run()
    made = 2 * sum(generator.requests for generator in scene.generators)
    # Learned from, waiting, and what 2 generators x 2 requests x 2 pairs may have on the way; not a pair more.
    assert made <= 5 * PAIRS_PER_STEP + 8 + 2 * 2 * 2 + 2


def test_a_buffer_that_cannot_store_ends_the_run_and_everything_is_closed(tmp_path: Path, monkeypatch: Any):
    def full(self: ReplayBuffer, *given: Any) -> Any:
        raise OSError(28, "No space left on device")

    scene = Scene(tmp_path, steps=10_000)
    monkeypatch.setattr(ReplayBuffer, "_new", full)
    with pytest.raises(OSError, match="No space left"):
        scene.run()
    assert scene.left_over == []


def test_a_request_that_a_generator_refuses_is_made_by_another_one(tmp_path: Path):
    aside: list[Any] = []
    scene = Scene(tmp_path, generators=[FakeGenerator(), FakeGenerator(fails_at=2)])
    assert scene.run(set_aside=lambda *given: aside.append(given)) == 6
    assert aside == []
    made = sorted(pair.condition_id for batch in scene.learner.batches for pair in batch.pairs)
    assert len(made) == 6 * PAIRS_PER_STEP


def test_a_poisoned_condition_is_set_aside_by_name_and_the_rest_is_learned_from(tmp_path: Path):
    aside: list[tuple[Request, BaseException]] = []
    scene = Scene(tmp_path, generators=[FakeGenerator(poison="c3"), FakeGenerator(poison="c3")], max_staleness=9)
    assert scene.run(set_aside=lambda *given: aside.append(given)) == 6
    assert aside and all("c3" in [each.id for each in request.conditions] for request, _ in aside)
    assert all(isinstance(error, ArithmeticError) for _, error in aside)
    learned = {pair.condition_id for batch in scene.learner.batches for pair in batch.pairs}
    assert learned and "c3" not in learned


def test_a_loop_in_which_nothing_works_ends_with_what_is_raised_of_it(tmp_path: Path):
    def too_many(request: Request, error: BaseException) -> None:
        raise RuntimeError("too often") from error

    scene = Scene(tmp_path, generators=[FakeGenerator(poison="c0")], steps=10_000)
    with pytest.raises(RuntimeError, match="too often"):
        scene.run(set_aside=too_many)
    assert scene.left_over == []


def test_a_ranker_that_hangs_is_told_of_and_its_question_is_answered_by_another(tmp_path: Path):
    class Hanging(FakeRanker):
        async def rank(self, clips: list[CandidateVideos]) -> list[Verdict]:  # pyright: ignore[reportIncompatibleMethodOverride]
            await asyncio.Event().wait()
            return []

    told: list[tuple[BaseException, Any]] = []
    scene = Scene(tmp_path, rankers=[Hanging(), FakeRanker()], learner=FakeLearner(seconds=0.3))
    assert scene.run(recover=lambda *given: bool(told.append(given)), deadline=0.5) == 6
    assert told and all(isinstance(error, TimeoutError) for error, _ in told)


@pytest.mark.parametrize("bound", [0, 1])
def test_a_generator_that_does_not_start_holds_nothing_up(bound: int, tmp_path: Path):
    class Pending(FakeGenerator):
        async def load_weights(self, snapshot: Snapshot) -> Receipt:
            await asyncio.Event().wait()
            raise AssertionError

    scene = Scene(tmp_path, generators=[Pending(), FakeGenerator()], max_staleness=bound)
    assert scene.run() == 6
    assert scene.generators[1].requests >= 6


def test_a_ranker_that_has_not_started_is_not_asked(tmp_path: Path):
    scene = Scene(tmp_path, rankers=[FakeRanker(hangs=True), FakeRanker()])
    assert scene.run() == 6
    # The first call may come before the other one has said that it has started.
    assert scene.rankers[0].asked <= 1 < scene.rankers[1].asked


def test_the_learners_failure_is_raised_and_everything_is_closed(tmp_path: Path):
    scene = Scene(tmp_path, learner=FakeLearner(fails_at=3))
    with pytest.raises(FloatingPointError, match="not finite"):
        scene.run()
    assert scene.left_over == []


@pytest.mark.parametrize("wrong", [{"checksum": "other"}, {"version": 7}, {"parameters": 0}, {"parameters": 2}])
def test_a_receipt_that_is_not_what_was_published_stops_the_run(tmp_path: Path, wrong: dict[str, Any]):
    scene = Scene(tmp_path, generators=[FakeGenerator(wrong=wrong)])
    with pytest.raises(ValueError, match="does not hold the weights it was sent"):
        scene.run()
    assert scene.generators[0].requests == 0
    assert scene.learner.steps == 0


def test_a_replaced_generator_is_given_weights_and_makes_the_request_again(tmp_path: Path):
    scene = Scene(tmp_path, generators=[FakeGenerator(fails_at=3)], rankers=[FakeRanker()])
    fresh, aside = FakeGenerator(), []

    def recover(error: BaseException, actor: Any) -> bool:
        if not isinstance(error, ArithmeticError):
            return False
        assert actor is scene.handles[0]
        scene.handles[0] = InProcessHandle(fresh)
        return True

    assert scene.run(recover=recover, set_aside=lambda *given: aside.append(given)) == 6
    assert fresh.loads and fresh.requests and not aside


@pytest.mark.parametrize(("fails", "generated_again"), [(1, 0), (2, 1)])
def test_a_lost_rankers_question_is_asked_again_once_before_the_videos_are_made_anew(
    tmp_path: Path, fails: int, generated_again: int
):
    scene = Scene(tmp_path, generators=[FakeGenerator()], rankers=[FakeRanker(fails=fails)], requests_in_flight=1)
    recovered: list[BaseException] = []
    assert scene.run(recover=lambda error, actor: not recovered.append(error)) == 6
    assert len(recovered) == fails
    (generator,), (ranker,) = scene.generators, scene.rankers
    # The last request may still have been with the ranker, or not yet, when the learner ended.
    assert 0 <= generator.requests + fails - generated_again - ranker.asked <= 1


def test_the_first_snapshot_is_waited_for(tmp_path: Path):
    async def story() -> list[str]:
        store, generator, told = WeightStore(put=lambda snapshot: snapshot), FakeGenerator(), []
        handles = InProcessHandle(generator), InProcessHandle(store)
        loading = asyncio.ensure_future(online_loop.load_newest(*handles, online_loop.NOTHING_LOADED))
        await asyncio.sleep(0.01)
        told.append("waiting" if not loading.done() else "did not wait")
        await store.publish(snapshot(4))
        told.append(str(await loading))
        told.append(str(await online_loop.load_newest(*handles, 4)))  # nothing newer: no wait and no load
        return [*told, str(generator.loads)]

    assert asyncio.run(asyncio.wait_for(story(), 5)) == ["waiting", "4", "4", "[4]"]


def test_the_videos_are_let_go_while_the_buffer_waits_for_room():
    async def story() -> list[bool]:
        waiting, alive = asyncio.Event(), []

        class Remembering(FakeGenerator):
            def generate(self, request: Request) -> tuple[list[Candidates], list[CandidateVideos], int]:
                candidates, clips, _ = super().generate(request)
                alive.extend(weakref.ref(video) for pair in clips for video in (pair.video_a, pair.video_b))
                return candidates, clips, len(clips)

        class FullBuffer:
            async def admit(self, conditions: int) -> Slot:
                return Slot("online", 0)

            async def add(self, candidates: list[Candidates], verdicts: list[Verdict], request: Request) -> int:
                waiting.set()
                await asyncio.Event().wait()
                return 0

            async def close(self) -> None: ...

        async def learn() -> list[bool]:
            await waiting.wait()
            await asyncio.sleep(0.05)
            gc.collect()
            return [video() is None for video in alive]

        store = WeightStore(put=lambda snapshot: snapshot)
        await store.publish(snapshot(0))
        return await online_loop.run(
            requests=PromptStream(CONDITIONS, per_request=2, seed=0),
            conditions_per_request=2,
            generators=[InProcessHandle(Remembering())],
            rankers=[InProcessHandle(FakeRanker())],
            buffer=InProcessHandle(FullBuffer()),
            weights=InProcessHandle(store),
            learn=learn,
            requests_in_flight=1,
        )

    freed = asyncio.run(asyncio.wait_for(story(), 30))
    assert len(freed) == 4 and all(freed)
