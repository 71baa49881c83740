import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from buffers.records import Clips, Condition, Domain
from configs.schema import RankerConfig
from ranker.inputs import Question
from ranker.ranker import Ranker
from ranker.rubric import RUBRIC_VERSION
from ranker.verdict import Reading


class BrightnessJudge:
    """Calls the brighter video the less distorted; keeps what it was asked."""

    versions: ClassVar[dict[Domain, str]] = {"human": "brightness@0+human@1", "general": "brightness@0"}

    def __init__(self) -> None:
        self.calls: list[list[Question]] = []

    def ask(self, questions: Sequence[Question]) -> list[Reading]:
        self.calls.append(list(questions))
        return [self._answer(q.first.frames.mean() > q.second.frames.mean()) for q in questions]

    def _answer(self, first: bool) -> Reading:
        one, two = (0.9, 0.05) if first else (0.05, 0.9)
        return Reading((math.log(one), math.log(two), math.log(0.03), math.log(0.01)), True)


class FirstJudge(BrightnessJudge):
    def _answer(self, first: bool) -> Reading:
        return super()._answer(True)


def clips(a: int, b: int, domain: Domain | None = "human", frames: int = 9) -> Clips:
    videos = (np.full((frames, 4, 4, 3), level, np.uint8) for level in (a, b))
    return Clips(Condition("c", "a red person walking left", domain), *videos, fps=8.0, policy_version=3)


def test_all_pairs_are_asked_in_both_orders_in_one_call() -> None:
    judge = BrightnessJudge()
    verdicts = Ranker(RankerConfig(path="x"), judge=judge).rank([clips(200, 10), clips(10, 200)])
    assert [verdict.label for verdict in verdicts] == [1, 2]
    assert [(verdict.agreed, verdict.first_shown, verdict.dropped) for verdict in verdicts] == [(True, 1, None)] * 2
    (asked,) = judge.calls
    shown = [(int(q.first.frames[0, 0, 0, 0]), int(q.second.frames[0, 0, 0, 0])) for q in asked]
    assert shown == [(200, 10), (10, 200), (10, 200), (200, 10)]


def test_a_verdict_carries_who_judged_it_by_which_rubric() -> None:
    (verdict,) = Ranker(RankerConfig(path="x"), judge=BrightnessJudge()).rank([clips(200, 10)])
    assert (verdict.domain, verdict.rubric_version, verdict.ranker_version) == (
        "human",
        RUBRIC_VERSION,
        "brightness@0+human@1",
    )


def test_a_condition_without_a_domain_is_judged_by_the_general_rubric() -> None:
    judge = BrightnessJudge()
    verdicts = Ranker(RankerConfig(path="x"), judge=judge).rank([clips(1, 2, None), clips(1, 2, "human")])
    assert [verdict.domain for verdict in verdicts] == ["general", "human"]
    assert [question.domain for question in judge.calls[0]] == ["general", "general", "human", "human"]


def test_only_so_many_frames_are_shown() -> None:
    judge = BrightnessJudge()
    Ranker(RankerConfig(path="x", frames=5), judge=judge).rank([clips(1, 2, frames=81)])
    assert judge.calls[0][0].first.indices == (0, 20, 40, 60, 80)


def test_position_bias_is_dropped_and_counted() -> None:
    ranker = Ranker(RankerConfig(path="x"), judge=FirstJudge())
    (verdict,) = ranker.rank([clips(1, 2)])
    assert (verdict.dropped, verdict.first_shown) == ("disagreement", 2)
    assert ranker.times().counts == {"disagreement": 1, "pairs": 1}


def test_one_order_is_asked_where_the_config_says_so() -> None:
    judge = FirstJudge()
    (verdict,) = Ranker(RankerConfig(path="x", both_orders=False), judge=judge).rank([clips(1, 2)])
    assert (len(judge.calls[0]), verdict.dropped, verdict.first_shown) == (1, None, 1)


def test_no_clips_are_no_call() -> None:
    judge = BrightnessJudge()
    assert Ranker(RankerConfig(path="x"), judge=judge).rank([]) == []
    assert judge.calls == []


def test_times_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 103.0, 105.0, 109.0])  # ready, rank begins, rank ends, asked
    monkeypatch.setattr("ranker.ranker.time.monotonic", lambda: next(clock))
    ranker = Ranker(RankerConfig(path="x"), judge=BrightnessJudge())
    ranker.rank([clips(200, 10)])
    times = ranker.times()
    assert (times.busy_s, times.waiting_s, times.counts) == (2.0, 7.0, {"usable": 1, "pairs": 1})
