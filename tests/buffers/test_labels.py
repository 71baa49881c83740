import math
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pytest

from buffers.labels import (
    LABELS,
    LABELS_OF,
    POSITION_COUNTS,
    TALLY,
    WHY_DROPPED,
    DropReason,
    a_is_likelier,
    choice_of,
    swapped,
    swapped_probabilities,
)
from buffers.records import Preference, Scores
from tests.buffers.samples import verdict


def tally(preferences: Sequence[Preference]) -> Counter[str]:
    return sum((preference.counts() for preference in preferences), Counter())


def test_every_drop_reason_has_words():
    assert tuple(WHY_DROPPED) == get_args(DropReason)


@pytest.mark.parametrize("label", LABELS)
def test_a_label_names_the_other_video_once_the_two_have_changed_places(label):
    assert swapped(swapped(label)) == label and {choice_of(label), choice_of(swapped(label))} == {"a", "b"}
    assert swapped(choice_of(label)) == choice_of(swapped(label)) and label in LABELS_OF[choice_of(label)]
    assert (label in (1, 2)) is (swapped(label) in (1, 2))  # the kind of the answer stays


def test_swapping_exchanges_the_videos_and_keeps_the_kind() -> None:
    assert swapped_probabilities((0.4, 0.3, 0.2, 0.1)) == (0.3, 0.4, 0.1, 0.2)


def test_the_two_labels_of_a_video_are_added_before_they_are_compared() -> None:
    assert a_is_likelier((0.25, 0.4, 0.3, 0.05)) and not a_is_likelier((0.05, 0.3, 0.25, 0.4))


def test_the_tally_counts_every_verdict_once():
    counts = tally(
        [
            verdict(1, first_shown=2, agreed=False, dropped="disagreement"),
            verdict(3),
            verdict(3, first_shown=0, dropped="low_confidence"),
            verdict(0, agreed=False, first_shown=0, dropped="invalid_label"),
            verdict(1, dropped="lost"),
        ]
    )
    position = {key: count for key, count in counts.items() if key in POSITION_COUNTS and count}
    assert position == {"disagreed_general_1": 1, "first_general_1": 1}
    assert {key: counts[key] for key in TALLY if key not in POSITION_COUNTS} == {
        "judged": 4,
        "scored": 0,
        "label_1": 1,
        "label_2": 0,
        "label_3": 2,
        "label_4": 0,
        "agreed": 2,
        "kept_distortion": 0,
        "kept_motion": 1,
        "dropped_disagreement": 1,
        "dropped_low_confidence": 1,
        "dropped_low_label_mass": 0,
        "dropped_invalid_label": 1,
        "dropped_lost": 1,
        "dropped_motion_share": 0,
        "dropped_tie": 0,
        "dropped_not_finite": 0,
        "dropped_not_asked": 0,
    }
    assert set(counts) <= set(TALLY)


def test_a_functions_scores_count_as_judged_and_by_their_reason():
    counts = tally([Scores(0.2, 0.9), Scores(1.0, 1.0, "tie"), Scores(math.nan, 1.0, "not_finite"), verdict(3)])
    assert (counts["scored"], counts["agreed"]) == (3, 1)  # the verdict's alone
    assert (counts["judged"], counts["dropped_tie"], counts["dropped_not_finite"], counts["label_3"]) == (4, 1, 1, 1)
