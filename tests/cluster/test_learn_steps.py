import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from buffers.records import Batch, Snapshot
from cluster.learn_steps import in_thread, learn_steps
from learner.guards import Finding
from learner.samples import UnusablePairs


class Learner:
    """Counts; a step's batch only has to be there."""

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps

    def step(self, batch: Batch) -> dict[str, float]:
        self.steps += 1
        return {"loss": 1.0 / self.steps}

    def snapshot(self, version: int) -> Snapshot:
        return Snapshot(version, {}, f"after {self.steps} steps")


def learn(learner: Learner, *, steps: int, batches: int = 100, **options: Any) -> dict[str, Any]:
    """Runs the loop on lists; `batches`: how many can be taken before the buffer is closed."""
    seen: dict[str, Any] = {"taken": [], "published": [], "saved": [], "between": [], "rows": []}

    def take(step: int) -> Batch | None:
        if len(seen["taken"]) == batches:
            return None
        seen["taken"].append(step)
        return Batch(step, (), {}, (0, 2, 1, 1))

    def save(version: int, stopped: bool, published: Snapshot | None) -> None:
        seen["saved"].append(learner.steps)
        seen["between"].append((version, published.checksum if published else None))
        seen["stopped"] = stopped

    given = {"first_version": 0, "publish_every": 1, "checkpoint_every": 50, "agree": bool, **options}
    seen["returned"] = learn_steps(
        learner,
        steps=steps,
        take=take,
        publish=lambda snapshot: seen["published"].append((snapshot.version, snapshot.checksum)),
        save=save,
        record=lambda kind, row: seen["rows"].append((kind, row)),
        **given,
    )
    return seen


def test_weights_are_published_before_the_first_take_and_after_every_step():
    seen = learn(Learner(), steps=3)
    assert seen["taken"] == [0, 1, 2]
    assert seen["published"] == [(0, "after 0 steps"), (1, "after 1 steps"), (2, "after 2 steps"), (3, "after 3 steps")]


def test_publish_every_and_checkpoint_every_and_nothing_is_left_unpublished_or_unsaved():
    seen = learn(Learner(), steps=7, publish_every=3, checkpoint_every=2)
    assert seen["published"] == [(0, "after 0 steps"), (1, "after 3 steps"), (2, "after 6 steps"), (3, "after 7 steps")]
    assert seen["saved"] == [2, 4, 6, 7]


def test_what_ends_on_a_boundary_is_published_and_saved_once():
    seen = learn(Learner(), steps=4, publish_every=2, checkpoint_every=2)
    assert seen["published"][-1] == (2, "after 4 steps")
    assert seen["saved"] == [2, 4]


def test_a_restored_learner_repeats_steps_under_new_versions():
    seen = learn(Learner(steps=4), steps=6, first_version=9)
    assert seen["taken"] == [4, 5]
    assert seen["published"] == [(9, "after 4 steps"), (10, "after 5 steps"), (11, "after 6 steps")]


def test_a_closed_buffer_ends_the_loop_with_everything_saved():
    seen = learn(Learner(), steps=100, batches=2, publish_every=5)
    assert seen["returned"] == 2
    assert seen["published"][-1] == (1, "after 2 steps")
    assert seen["saved"] == [2]


def test_a_teacher_is_published_until_the_last_step_and_then_what_was_learned_from_it():
    def teacher(version: int) -> Snapshot:
        return Snapshot(version, {}, "teacher")

    seen = learn(Learner(), steps=4, publish_every=2, checkpoint_every=2, teacher=teacher)
    assert seen["published"] == [(0, "teacher"), (1, "teacher"), (2, "teacher"), (3, "after 4 steps")]
    assert seen["saved"] == [2, 4, 4]  # the last state has the version of the student's weights


def test_a_guard_that_stops_ends_the_stage_with_the_best_adapter():
    order: list[str] = []

    def guard(measured: Mapping[str, Any]) -> list[Finding]:
        return [Finding("drift", 0.3, stops=measured["loss"] < 0.3, advice="lower the rate")]

    seen = learn(
        Learner(),
        steps=9,
        publish_every=2,
        guard=guard,
        evaluate=lambda: order.append("evaluate"),
        evaluate_every=2,
        take_back=lambda: order.append("take back"),
    )
    assert (seen["returned"], seen["stopped"]) == (4, True)  # at step 4 the loss is 0.25
    assert order == ["evaluate", "evaluate", "take back"]
    assert seen["published"][-1][0] == 3  # also what was published is what was taken back
    assert [row["stops"] for kind, row in seen["rows"] if kind == "guard"] == [False, False, False, True]
    assert [row["left"] for kind, row in seen["rows"] if kind == "guard"] == [8, 7, 6, 5]


def test_a_rank_whose_neighbour_has_nothing_does_not_step_alone():
    answers = iter([True, True, True, False])  # second step: this rank has a batch, the other has none
    learner = Learner()
    learn(learner, steps=5, agree=lambda answer: next(answers))
    assert learner.steps == 1


class Choosy(Learner):
    """Cannot learn from the first batches of step 1."""

    def __init__(self, refused: int) -> None:
        super().__init__()
        self.refused = refused

    def step(self, batch: Batch) -> dict[str, float]:
        if self.steps == 1 and self.refused:
            self.refused -= 1
            raise UnusablePairs([f"bad-{self.refused}"], "the loss is not finite")
        return super().step(batch)


def test_pairs_that_cannot_be_learned_from_are_set_aside_and_the_batch_is_taken_again():
    aside: list[Any] = []
    seen = learn(Choosy(2), steps=3, set_aside=lambda *given: aside.append(given))
    assert aside == [(1, ("bad-1",)), (1, ("bad-0",))]
    assert seen["taken"] == [0, 1, 1, 1, 2] and seen["returned"] == 3


def test_a_step_that_can_learn_from_nothing_at_all_is_an_error():
    with pytest.raises(UnusablePairs):
        learn(Choosy(99), steps=3)


def test_a_slow_step_is_saved_at_once_with_what_the_generators_hold():
    seen = learn(Learner(), steps=2, publish_every=5, checkpoint_seconds=0.0, batches=1)
    assert seen["saved"] == [1, 1]  # after the step, and published at the end
    seen = learn(Learner(), steps=3, publish_every=2, checkpoint_seconds=0.0)
    assert seen["saved"] == [1, 2, 3, 3]
    assert seen["between"] == [(0, "after 0 steps"), (1, None), (1, "after 2 steps"), (2, None)]


def test_a_run_that_goes_on_between_two_publications_publishes_what_the_generators_held():
    held = Snapshot(7, {}, "of two steps before")
    seen = learn(Learner(steps=5), steps=7, publish_every=3, first_version=7, held=held)
    assert seen["published"] == [(7, "of two steps before"), (8, "after 6 steps"), (9, "after 7 steps")]
    # Without a step, the weights of now are published at the end.
    assert learn(Learner(steps=5), steps=5, first_version=7, held=held)["published"][-1] == (8, "after 5 steps")


def test_rows_hold_the_learners_figures_staleness_and_who_waited():
    rows = learn(Learner(), steps=2)["rows"]
    kind, row = rows[-2]
    assert kind == "step"
    assert row["step"] == 2 and row["version"] == 2 and row["loss"] == 0.5
    assert row["staleness_mean"] == 1.0 and row["staleness_max"] == 2.0
    assert row["wait_s"] >= 0 and row["step_s"] >= 0
    kind, times = rows[-1]
    assert kind == "roles" and times["role"] == "learner" and times["counts"] == {"steps": 2}
    assert times["busy_s"] == pytest.approx(sum(row["step_s"] for kind, row in rows if kind == "step"))


def test_in_thread_hands_over_results_and_errors():
    def fail() -> None:
        raise KeyError("lost")

    async def story() -> tuple[int, bool]:
        with pytest.raises(KeyError, match="lost"):
            await in_thread(fail)
        name = await in_thread(lambda: threading.current_thread().daemon)
        return await in_thread(lambda: 3), name

    assert asyncio.run(story()) == (3, True)
