import dataclasses
import math

import pytest

from buffers.labels import TALLY, judged_pair, tally
from buffers.records import Scores
from tests.buffers.samples import candidates, pair, same, verdict


@pytest.mark.parametrize(("label", "chosen"), [(1, 0), (2, 1), (3, 0), (4, 1)])
def test_the_label_says_which_side_is_chosen(label, chosen):
    sides = candidates(5, version=3)
    judged = judged_pair(sides, verdict(label))
    latents, seeds = (sides.latents_a, sides.latents_b), (10, 11)
    assert judged.chosen is latents[chosen] and judged.rejected is latents[1 - chosen]
    assert (judged.chosen_id, judged.rejected_id) == (f"c0-{seeds[chosen]}", f"c0-{seeds[1 - chosen]}")
    assert (judged.id, judged.condition_id, judged.policy_version, judged.source) == ("c0-10-11", "c0", 3, "online")
    assert judged.verdict == verdict(label)


def test_the_sample_pair_is_what_the_sample_candidates_become():
    assert same(judged_pair(candidates(5, version=3), verdict()), pair(5, version=3))


@pytest.mark.parametrize("label", [0, 5, -1])
def test_a_label_without_a_choice_is_an_error(label):
    with pytest.raises(ValueError, match=rf"c0-10-11 has the label {label}"):
        judged_pair(candidates(5), dataclasses.replace(verdict(), label=label))


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
    assert {key: counts[key] for key in TALLY} == {
        "judged": 4,
        "scored": 0,
        "label_1": 1,
        "label_2": 0,
        "label_3": 2,
        "label_4": 0,
        "agreed": 2,
        "first_shown": 3,
        "dropped_disagreement": 1,
        "dropped_low_confidence": 1,
        "dropped_low_label_mass": 0,
        "dropped_invalid_label": 1,
        "dropped_lost": 1,
        "dropped_motion_share": 0,
        "dropped_tie": 0,
        "dropped_not_finite": 0,
    }
    assert set(counts) <= set(TALLY)


def test_a_functions_scores_count_as_judged_and_by_their_reason():
    counts = tally([Scores(0.2, 0.9), Scores(1.0, 1.0, "tie"), Scores(math.nan, 1.0, "not_finite"), verdict(3)])
    assert (counts["scored"], counts["agreed"], counts["first_shown"]) == (3, 1, 1)  # the verdict's alone
    assert (counts["judged"], counts["dropped_tie"], counts["dropped_not_finite"], counts["label_3"]) == (4, 1, 1, 1)


def test_the_larger_score_is_chosen():
    pair = judged_pair(candidates(2), Scores(0.2, 0.9))
    assert (pair.chosen_id, pair.rejected_id, pair.verdict) == ("c0-5", "c0-4", None)
