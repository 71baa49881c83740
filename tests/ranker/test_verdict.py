import math
from typing import Any

import pytest

from buffers.labels import a_is_likelier
from buffers.records import Verdict
from configs.sections import RankerConfig
from ranker.rubric import RUBRIC_VERSION
from ranker.verdict import Reading, decide


def reading(*probabilities: float, answered: bool = True) -> Reading:
    one, two, three, four = (math.log(value) if value else -math.inf for value in probabilities)
    return Reading((one, two, three, four), answered)


def verdict(
    forth: Reading, back: Reading | None, *, confidence: float = 0.6, mass: float = 0.5, keep: tuple[str, ...] = ()
) -> Verdict:
    kept: dict[str, Any] = dict.fromkeys(keep, "keep")
    return decide(
        forth,
        back,
        RankerConfig(path="x", min_confidence=confidence, min_label_mass=mass, **kept),
        domain="human",
        ranker_version="tiny@12345678",
    )


def test_a_reading_is_normalised_over_the_labels_and_keeps_the_mass_that_they_had() -> None:
    said = reading(0.4, 0.1, 0.2, 0.1)  # 0.2 went to tokens that are no label
    assert said.mass == pytest.approx(0.8)
    assert said.probabilities == pytest.approx((0.5, 0.125, 0.25, 0.125))


def test_both_orders_are_averaged_in_the_order_a_b() -> None:
    # shown A, B: "1" with 0.7; shown B, A: "2" with 0.5, which is A again
    said = verdict(reading(0.7, 0.1, 0.1, 0.1), reading(0.2, 0.5, 0.1, 0.2))
    assert said.probabilities == pytest.approx((0.6, 0.15, 0.15, 0.1))
    assert (said.label, said.a_is_chosen, said.agreed, said.first_shown, said.dropped) == (1, True, True, 1, None)
    assert said.confidence == pytest.approx(0.75)
    assert (said.domain, said.rubric_version, said.ranker_version) == ("human", RUBRIC_VERSION, "tiny@12345678")


def test_motion_labels_say_which_video_moves_better() -> None:
    said = verdict(reading(0.0, 0.1, 0.1, 0.8), reading(0.1, 0.0, 0.9, 0.0))
    assert (said.label, said.a_is_chosen, said.agreed, said.first_shown) == (4, False, True, 1)
    assert said.probabilities == pytest.approx((0.0, 0.1, 0.05, 0.85))


def test_a_judge_that_always_takes_the_first_video_is_dropped() -> None:
    said = verdict(reading(0.9, 0.1, 0, 0), reading(0.8, 0.2, 0, 0))
    assert (said.agreed, said.first_shown, said.dropped) == (False, 2, "disagreement")
    assert verdict(reading(0.1, 0.9, 0, 0), reading(0.2, 0.8, 0, 0)).first_shown == 0


def test_orders_that_differ_in_kind_but_name_the_same_video_agree() -> None:
    said = verdict(reading(0.8, 0.1, 0.1, 0.0), reading(0.0, 0.1, 0.1, 0.8))  # "1: A", then "4: A"
    assert (said.agreed, said.a_is_chosen, said.dropped) == (True, True, None)
    assert said.confidence == pytest.approx(0.9)


def test_the_video_is_chosen_before_the_label() -> None:
    # the single likeliest label names B (0.4), but A has 0.55 of the probability
    said = verdict(reading(0.25, 0.4, 0.3, 0.05), None, confidence=0.5)
    assert (said.a_is_chosen, said.label) == (True, 3)
    assert a_is_likelier((0.25, 0.4, 0.3, 0.05))


def test_low_confidence_is_dropped_at_the_bound_only() -> None:
    pair = reading(0.55, 0.45, 0, 0), reading(0.45, 0.55, 0, 0)
    assert verdict(*pair, confidence=0.6).dropped == "low_confidence"
    assert verdict(*pair, confidence=0.54).dropped is None


def test_the_smaller_mass_of_the_two_orders_counts() -> None:
    said = verdict(reading(0.9, 0.05, 0.02, 0.01), reading(0.01, 0.3, 0.01, 0.01))
    assert said.label_mass == pytest.approx(0.33)
    assert said.dropped == "low_label_mass"


def test_another_token_than_the_labels_is_invalid_whatever_the_rest_says() -> None:
    said = verdict(reading(0.3, 0.0, 0.1, 0.0, answered=False), reading(0.0, 0.9, 0.0, 0.0))
    assert said.dropped == "invalid_label"


def test_where_nothing_can_be_read_nothing_is_guessed() -> None:
    said = verdict(reading(0, 0, 0, 0), Reading((math.nan, 0.0, 0.0, 0.0), True))
    assert said.label_mass == 0.0
    assert said.dropped == "low_label_mass"
    assert said.probabilities == (0.25, 0.25, 0.25, 0.25)


def test_one_order_alone_can_be_asked() -> None:
    said = verdict(reading(0.1, 0.2, 0.0, 0.7), None)
    assert (said.label, said.agreed, said.first_shown, said.dropped) == (4, True, 0, None)


@pytest.mark.parametrize(
    ("forth", "back", "doubt"),
    [
        (reading(0.3, 0.1, 0.0, 0.0), reading(0.1, 0.3, 0.0, 0.0), "low_label_mass"),
        (reading(0.9, 0.1, 0.0, 0.0), reading(0.8, 0.2, 0.0, 0.0), "disagreement"),
        (reading(0.55, 0.45, 0.0, 0.0), reading(0.45, 0.55, 0.0, 0.0), "low_confidence"),
    ],
)
def test_a_doubt_is_kept_where_the_config_says_so(forth: Reading, back: Reading, doubt: str) -> None:
    doubts = ("low_label_mass", "disagreement", "low_confidence")
    assert verdict(forth, back).dropped == doubt
    assert verdict(forth, back, keep=doubts).dropped is None
    # Each is kept or dropped for itself.
    assert verdict(forth, back, keep=tuple(other for other in doubts if other != doubt)).dropped == doubt
    lost = Reading(forth.logprobs, answered=False)
    assert verdict(lost, back, keep=doubts).dropped == "invalid_label"
