import asyncio
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from buffers.labels import LABELS
from buffers.records import CandidateVideos, Condition, Domain, Verdict
from buffers.replay import ReplayBuffer
from configs.sections import BufferConfig, RankerConfig
from ranker.frames import sample_frames
from ranker.judges.qwen_vl import EngineDied
from ranker.questions import Question
from ranker.ranker import Ranker
from ranker.rubric import RUBRIC_VERSION
from ranker.verdict import NOTHING, Reading
from tests.buffers.samples import candidates


class BrightnessJudge:
    """Calls the brighter video the less distorted, and what has a person in it human; keeps what it was asked."""

    def __init__(self) -> None:
        self.versions: dict[Domain, str] = {"human": "brightness@0+human@1", "general": "brightness@0"}
        self.calls: list[list[Question]] = []
        self.described: list[str] = []

    def ask(self, questions: Sequence[Question]) -> list[Reading]:
        self.calls.append(list(questions))
        return [self._answer(q.first.frames.mean() > q.second.frames.mean()) for q in questions]

    def ask_domain(self, descriptions: Sequence[str]) -> list[Reading]:
        self.described += descriptions
        return [self._answer("person" in text) for text in descriptions]

    def _answer(self, first: bool) -> Reading:
        one, two = (0.9, 0.05) if first else (0.05, 0.9)
        return Reading((math.log(one), math.log(two), math.log(0.03), math.log(0.01)), True)


class FirstJudge(BrightnessJudge):
    def _answer(self, first: bool) -> Reading:
        return super()._answer(True)


class LabelJudge(BrightnessJudge):
    """Says the labels in the order in which it was given them, whatever it is shown."""

    def __init__(self, *labels: int) -> None:
        super().__init__()
        self._labels = iter(labels)

    def _answer(self, first: bool) -> Reading:
        label = next(self._labels)
        one, two, three, four = (math.log(0.9 if each == label else 0.02) for each in LABELS)
        return Reading((one, two, three, four), True)


def kept(ranker: Ranker, count: int) -> list[bool]:
    """Which of the next so many pairs are learned from."""
    verdicts = ranker.rank([clips(10, 200)] * count)
    assert {verdict.dropped for verdict in verdicts} <= {None, "motion_share"}
    return [verdict.dropped is None for verdict in verdicts]


def clips(
    a: int, b: int, domain: Domain | None = "human", frames: int = 9, prompt: str = "a red person walking left"
) -> CandidateVideos:
    videos = (np.full((frames, 4, 4, 3), level, np.uint8) for level in (a, b))
    return CandidateVideos(Condition("c", prompt, domain), *videos, fps=8.0, policy_version=3)


def test_all_pairs_are_asked_in_both_orders_in_one_call() -> None:
    judge = BrightnessJudge()
    verdicts = Ranker(RankerConfig(path="x"), open_judge=lambda config: judge).rank([clips(200, 10), clips(10, 200)])
    assert [verdict.label for verdict in verdicts] == [1, 2]
    assert [(verdict.agreed, verdict.first_shown, verdict.dropped) for verdict in verdicts] == [(True, 1, None)] * 2
    (asked,) = judge.calls
    shown = [(int(q.first.frames[0, 0, 0, 0]), int(q.second.frames[0, 0, 0, 0])) for q in asked]
    assert shown == [(200, 10), (10, 200), (10, 200), (200, 10)]


def test_a_verdict_carries_who_judged_it_by_which_rubric() -> None:
    (verdict,) = Ranker(RankerConfig(path="x"), open_judge=lambda config: BrightnessJudge()).rank([clips(200, 10)])
    assert (verdict.domain, verdict.rubric_version, verdict.ranker_version) == (
        "human",
        RUBRIC_VERSION,
        "brightness@0+human@1",
    )


def test_a_condition_without_a_domain_gets_the_one_that_the_judge_finds_in_its_prompt() -> None:
    judge = BrightnessJudge()
    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: judge)
    boat, person = clips(200, 10, None, prompt="a boat"), clips(200, 10, None, prompt="a person")
    told = clips(200, 10, "general", prompt="a person in the distance")
    verdicts = ranker.rank([boat, person, told])
    assert [verdict.domain for verdict in verdicts] == ["general", "human", "general"]
    assert [verdict.ranker_version for verdict in verdicts] == ["brightness@0", "brightness@0+human@1", "brightness@0"]
    assert [question.domain for question in judge.calls[0][::2]] == ["general", "human", "general"]
    ranker.rank([person, boat, person])
    assert judge.described == ["a boat", "a person"]  # once a condition, and none of those that say it
    assert ranker.times().counts["domains_asked"] == 2


def test_a_judge_that_does_not_answer_the_domain_leaves_the_general_one_and_is_counted() -> None:
    class Elsewhere(BrightnessJudge):
        def ask_domain(self, descriptions: Sequence[str]) -> list[Reading]:
            return [Reading((math.log(0.3), math.log(0.01), math.log(0.5), math.log(0.1)), True) for _ in descriptions]

    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: Elsewhere())
    (verdict,) = ranker.rank([clips(200, 10, None)])
    assert (verdict.domain, ranker.times().counts["domain_unsure"]) == ("general", 1)


def test_a_pair_whose_domain_was_lost_is_lost_and_asked_anew_the_next_time() -> None:
    class Mute(BrightnessJudge):
        def ask_domain(self, descriptions: Sequence[str]) -> list[Reading]:
            raise EngineDied("out of memory")

    judges: list[BrightnessJudge] = [Mute(), Mute(), BrightnessJudge()]
    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: judges.pop(0))
    verdicts = ranker.rank([clips(200, 10, None), clips(10, 200, "human")])
    assert [(verdict.dropped, verdict.domain) for verdict in verdicts] == [("lost", "general"), (None, "human")]
    assert [verdict.domain for verdict in ranker.rank([clips(200, 10, None)])] == ["human"]


def test_only_so_many_frames_are_shown() -> None:
    judge = BrightnessJudge()
    Ranker(RankerConfig(path="x", frames=5), open_judge=lambda config: judge).rank([clips(1, 2, frames=81)])
    assert judge.calls[0][0].first.indices == (0, 20, 40, 60, 80)


def test_position_bias_is_dropped_and_counted() -> None:
    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: FirstJudge())
    (verdict,) = ranker.rank([clips(1, 2)])
    assert (verdict.dropped, verdict.first_shown) == ("disagreement", 2)
    assert ranker.times().counts == {"disagreement": 1, "pairs": 1}


def test_a_doubt_that_is_kept_is_counted() -> None:
    config = RankerConfig(path="x", disagreement="keep", low_confidence="keep")
    ranker = Ranker(config, open_judge=lambda config: FirstJudge())
    (verdict,) = ranker.rank([clips(1, 2)])
    assert (verdict.dropped, verdict.agreed) == (None, False)
    assert ranker.times().counts == {"usable": 1, "disagreement_kept": 1, "low_confidence_kept": 1, "pairs": 1}


def test_motion_decides_no_more_pairs_than_its_share() -> None:
    # Three that motion decided before one that distortion decided: that one has room for none of them.
    judge = LabelJudge(3, 4, 3, 1, 4, 2, 3, 1)
    config = RankerConfig(path="x", motion_share=0.25, both_orders=False)
    ranker = Ranker(config, open_judge=lambda config: judge)
    assert kept(ranker, 4) == [False, False, False, True]
    # Two more make room for one.
    assert kept(ranker, 4) == [True, True, False, True]
    counts = ranker.times().counts
    assert (counts["pairs"], counts["usable"], counts["motion_share"]) == (8, 4, 4)


def test_a_dropped_pair_makes_no_room_for_motion() -> None:
    judge = FirstJudge()
    ranker = Ranker(RankerConfig(path="x", motion_share=0.5), open_judge=lambda config: judge)
    assert {verdict.dropped for verdict in ranker.rank([clips(10, 200)] * 3)} == {"disagreement"}
    ranker._judge = LabelJudge(3, 4)
    assert [verdict.dropped for verdict in ranker.rank([clips(10, 200)])] == ["motion_share"]


@pytest.mark.parametrize(("share", "usable"), [(0.0, 1), (1.0, 4)])
def test_a_motion_share_of_0_keeps_none_and_of_1_keeps_all(share: float, usable: int) -> None:
    judge = LabelJudge(3, 4, 3, 1)
    config = RankerConfig(path="x", motion_share=share, both_orders=False)
    assert sum(kept(Ranker(config, open_judge=lambda config: judge), 4)) == usable


def test_a_ranker_of_a_run_that_goes_on_keeps_what_the_run_would_have_kept(tmp_path: Path) -> None:
    labels = [1, 3, 2, 3, 4, 1, 3, 2, 2, 4, 3, 1]
    config = RankerConfig(path="x", motion_share=0.4, both_orders=False)
    alone = Ranker(config, open_judge=lambda config: LabelJudge(*labels))
    undisturbed = [verdict for _ in range(6) for verdict in alone.rank([clips(10, 200)] * 2)]

    async def killed_after_every_request() -> list[Verdict]:
        verdicts: list[Verdict] = []
        for number in range(6):
            buffer = ReplayBuffer(BufferConfig(), folder=tmp_path, seed=0)
            counted = buffer.counts()
            asked = labels[2 * number : 2 * number + 2]
            ranker = Ranker(config, counted, open_judge=lambda config, asked=asked: LabelJudge(*asked))
            said = ranker.rank([clips(10, 200)] * 2)
            await buffer.add([candidates(2 * number), candidates(2 * number + 1)], said)
            await buffer.close()
            verdicts += said
        return verdicts

    assert asyncio.run(killed_after_every_request()) == undisturbed
    dropped = [verdict.dropped for verdict in undisturbed]
    assert 0 < dropped.count("motion_share") < 6, "the share decides about some of these pairs"


def test_of_several_rankers_each_takes_up_its_part_of_the_share() -> None:
    config = RankerConfig(path="x", motion_share=0.5, both_orders=False, num_actors=2)
    counted = {"kept_motion": 2, "kept_distortion": 4}  # of the run: each ranker has kept one and two
    ranker = Ranker(config, counted, open_judge=lambda config: LabelJudge(3, 3))
    assert kept(ranker, 2) == [True, False]


def test_one_order_is_asked_where_the_config_says_so() -> None:
    judge = FirstJudge()
    (verdict,) = Ranker(RankerConfig(path="x", both_orders=False), open_judge=lambda config: judge).rank([clips(1, 2)])
    assert (len(judge.calls[0]), verdict.dropped, verdict.first_shown) == (1, None, 1)


def test_no_clips_are_no_call() -> None:
    judge = BrightnessJudge()
    assert Ranker(RankerConfig(path="x"), open_judge=lambda config: judge).rank([]) == []
    assert judge.calls == []


def test_times_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 103.0, 105.0, 109.0])  # ready, rank begins, rank ends, asked
    monkeypatch.setattr("buffers.clock.time.monotonic", lambda: next(clock))
    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: BrightnessJudge())
    ranker.rank([clips(200, 10)])
    times = ranker.times()
    assert (times.busy_s, times.waiting_s, times.counts) == (2.0, 7.0, {"usable": 1, "pairs": 1})


class Dying(BrightnessJudge):
    """Its engine dies over the first question."""

    def ask(self, questions: Sequence[Question]) -> list[Reading]:
        raise EngineDied("out of memory")


def test_a_dead_engine_is_replaced_and_asked_again() -> None:
    judges: list[BrightnessJudge] = [Dying(), BrightnessJudge()]
    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: judges.pop(0))
    (verdict,) = ranker.rank([clips(200, 10)])
    assert (verdict.label, verdict.dropped) == (1, None)
    assert ranker.times().counts == {"engines_lost": 1, "usable": 1, "pairs": 1}


def test_pairs_over_which_two_engines_died_are_counted_as_lost_and_the_next_are_judged() -> None:
    judges: list[BrightnessJudge] = [Dying(), Dying(), BrightnessJudge()]
    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: judges.pop(0))
    verdicts = ranker.rank([clips(200, 10), clips(10, 200)])
    assert [(verdict.dropped, verdict.label_mass) for verdict in verdicts] == [("lost", 0.0)] * 2
    assert [verdict.dropped for verdict in ranker.rank([clips(200, 10)])] == [None]
    assert ranker.times().counts == {"engines_lost": 2, "lost": 2, "usable": 1, "pairs": 3}


def test_engines_that_go_on_dying_end_the_run() -> None:
    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: Dying())
    for _ in range(2):
        assert [verdict.dropped for verdict in ranker.rank([clips(1, 2)])] == ["lost"]
    with pytest.raises(EngineDied, match="3 times in a row"):
        ranker.rank([clips(1, 2)])


def test_callers_are_answered_side_by_side_and_the_busy_time_is_counted_once() -> None:
    together = threading.Barrier(2, timeout=10)

    class Meeting(BrightnessJudge):
        def ask(self, questions: Sequence[Question]) -> list[Reading]:
            together.wait()  # neither gets here unless both are being answered
            return super().ask(questions)

    judge = Meeting()
    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: judge)
    with ThreadPoolExecutor(2) as callers:
        found = list(callers.map(ranker.rank, [[clips(200, 10)], [clips(10, 200)]]))
    assert [verdict.label for (verdict,) in found] == [1, 2]
    times = ranker.times()
    assert times.counts == {"usable": 2, "pairs": 2}
    assert times.busy_s + times.waiting_s < 10


class Choosy(BrightnessJudge):
    """Takes no question about videos of more than 16 frames, and no description of more than 20 characters."""

    def ask(self, questions: Sequence[Question]) -> list[Reading]:
        readings = super().ask(questions)
        return [
            replace(NOTHING, problem="too long a question") if question.first.total > 16 else reading
            for question, reading in zip(questions, readings, strict=True)
        ]

    def ask_domain(self, descriptions: Sequence[str]) -> list[Reading]:
        readings = super().ask_domain(descriptions)
        return [
            replace(NOTHING, problem="too long a description") if len(text) > 20 else reading
            for text, reading in zip(descriptions, readings, strict=True)
        ]


def test_a_question_that_the_judge_does_not_take_costs_its_pair_alone() -> None:
    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: Choosy())
    verdicts = ranker.rank([clips(200, 10), clips(200, 10, frames=17), clips(10, 200)])
    assert [verdict.dropped for verdict in verdicts] == [None, "not_asked", None]
    assert verdicts[1].counts() == {"dropped_not_asked": 1}  # nobody judged it
    assert ranker.times().counts == {"usable": 2, "not_asked": 1, "pairs": 3}
    asked = (sample_frames(np.zeros((17, 4, 4, 3), np.uint8), fps=8.0, count=9) for _ in range(2))
    (opinion,) = ranker.compare([Question("human", *asked)])
    assert opinion.problem == "too long a question"


def test_a_description_that_the_judge_does_not_take_has_the_general_domain_and_is_counted() -> None:
    ranker = Ranker(RankerConfig(path="x"), open_judge=lambda config: Choosy())
    assert ranker.domains_of(["a person", "a person " * 9]) == ["human", "general"]
    counts = ranker.times().counts
    assert (counts["domains_asked"], counts["domain_not_asked"], counts["domain_unsure"]) == (2, 1, 0)
