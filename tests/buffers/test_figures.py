import math

import numpy as np
import pytest

from buffers.figures import (
    Z95,
    auc,
    by_domain,
    difference,
    differences_of,
    figure,
    figures_of,
    position_bias,
    quantile,
    text_counts,
    wilson_interval,
)


def test_wilson_is_the_root_of_its_own_equation():
    """The interval's ends p solve |k/n - p| = z sqrt(p (1 - p) / n), which is how Wilson defined it."""
    for k, n in ((0, 20), (3, 20), (55, 256), (256, 256)):
        low, high = wilson_interval(k / n, n)
        for end in (low, high):
            if 0 < end < 1:
                assert abs(k / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5)
        assert 0 <= low <= k / n <= high <= 1


def test_wilson_against_a_published_value():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 is 0.2553 to 0.3662
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("freedom", "published"), [(1, 12.706), (2, 4.303), (4, 2.776), (5, 2.571), (9, 2.262), (23, 2.069), (60, 2.0003)]
)
def test_the_quantile_against_the_published_table(freedom: float, published: float):
    assert quantile(freedom) == pytest.approx(published, rel=2e-3)


def test_without_prompts_a_mean_is_students_own():
    # Student (1908), the extra hours of sleep of ten patients: mean 1.58, sample deviation 1.230.
    slept = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = figure(slept)
    assert found["value"] == pytest.approx(1.58)
    # t of 9 degrees of freedom is 2.262: 1.58 -+ 2.262 * 1.230 / sqrt(10), in every textbook 0.70 to 2.46.
    assert found["interval"] == pytest.approx([0.700, 2.460], abs=2e-3)
    assert "count" not in found and (found["of"], found["prompts"]) == (10, 10)


def test_a_rate_of_independent_values_is_wilsons():
    found = figure([True] * 81 + [False] * 182)
    assert (found["count"], found["of"]) == (81, 263)
    # The same as above but for Student's quantile in place of the normal one.
    assert found["interval"] == pytest.approx(wilson_interval(81 / 263, 263, quantile(262)), abs=1e-9)
    assert found["interval"] == pytest.approx((0.2553, 0.3662), abs=1e-3)


def test_values_of_one_prompt_that_are_all_alike_count_once():
    """Ten copies of every value say no more than one of each."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=24).tolist()
    alone, copied = (
        figure(values),
        figure([v for v in values for _ in range(10)], prompts=np.repeat(range(24), 10).tolist()),
    )
    assert copied["interval"] == pytest.approx(alone["interval"], rel=1e-9)
    assert (copied["of"], copied["prompts"]) == (240, 24)
    flags = (rng.random(24) < 0.3).tolist()
    copied = figure([v for v in flags for _ in range(10)], prompts=np.repeat(range(24), 10).tolist())
    # The variance of the mean of n copied values is n / (n - 1) p (1 - p) / n: one value less than n.
    assert copied["interval"] == pytest.approx(wilson_interval(np.mean(flags), 24, quantile(23)), rel=0.05)


def test_of_a_rate_of_0_or_1_only_the_prompts_count():
    found = figure([False] * 240, prompts=np.repeat(range(24), 10).tolist())
    assert found["interval"] == list(wilson_interval(0, 24, quantile(23))) and found["interval"][0] == 0.0


def test_intervals_that_overlap_may_belong_to_a_difference_that_is_sure():
    """Prompts differ much, and every one of them gets a little better."""
    prompts = np.repeat(range(24), 10).tolist()
    before = np.repeat(np.linspace(0, 10, 24), 10)
    after = before + 0.5 + 0.1 * np.random.default_rng(0).normal(size=240)
    was, now = figure(before.tolist(), prompts=prompts), figure(after.tolist(), prompts=prompts)
    assert was["interval"][1] > now["interval"][0]
    change = difference(after.tolist(), before.tolist(), prompts=prompts)
    assert change["interval"][0] > 0.4 and change["value"] == pytest.approx(0.5, abs=0.05)
    assert (change["rose"], change["fell"], change["points"]) == (240, 0, False)


VIDEOS = {
    "prompt": ["one", "one", "two", "two"],
    "domain": ["human", "human", "general", "general"],
    "distorted": [True, True, False, True],
    "motion": [1.0, 2.0, 3.0, 6.0],
    "reason": ["melts", "jumps", "", "melts"],
}
ABOUT = {"distorted": {"better": "lower", "unit": "of videos"}, "motion": {"better": "higher", "unit": "pixels"}}


def test_columns_become_figures_by_name_and_by_domain():
    found = figures_of(VIDEOS, ABOUT)
    assert list(found) == ["distorted", "motion"] and found["distorted"]["better"] == "lower"
    assert (found["distorted"]["count"], found["motion"]["value"], found["motion"]["prompts"]) == (3, 3.0, 2)
    assert {name: part["motion"] for name, part in by_domain(VIDEOS).items()} == {
        "human": [1.0, 2.0],
        "general": [3.0, 6.0],
    }
    assert text_counts(VIDEOS) == {"reason": {"melts": 2, "jumps": 1}}
    assert figures_of({}, ABOUT) == figures_of({"prompt": [], "domain": []}, ABOUT) == text_counts({}) == {}


def test_only_the_same_prompts_in_one_order_are_paired():
    after = VIDEOS | {"distorted": [False, True, False, False], "motion": [1.0, 2.0, 3.0, 7.0]}
    found = differences_of(after, VIDEOS)
    assert list(found) == ["distorted", "motion"]
    assert (found["distorted"]["value"], found["distorted"]["fell"], found["distorted"]["points"]) == (-0.5, 2, True)
    assert found["motion"]["value"] == 0.25
    assert differences_of(after | {"prompt": ["one", "two", "one", "two"]}, VIDEOS) == {}


def test_only_disagreements_tell_a_position_bias():
    """22 of 87 chose the video shown first: that is a bias, and 1,241 pairs that agree do not hide it."""
    counts = {"judged": 1328, "agreed": 1241, "disagreed_human_1": 60, "first_human_1": 10}
    counts |= {"disagreed_general_3": 27, "first_general_3": 12}
    found = position_bias(counts)
    assert list(found) == ["all", "human", "general", "human/1", "general/3"]
    assert (found["all"]["count"], found["all"]["of"]) == (22, 87) and found["all"]["interval"][1] < 0.5
    # Wilson's own interval of 22 of 87 is 0.173 to 0.353.
    assert found["all"]["interval"] == pytest.approx(wilson_interval(22 / 87, 87, Z95), abs=3e-3)
    low, high = found["general/3"]["interval"]
    assert low < 0.5 < high
    assert position_bias({"judged": 40, "agreed": 40}) == {}
    with pytest.raises(ValueError, match="no values"):
        figure([])


def test_auc_is_the_share_of_good_and_bad_videos_in_the_right_order():
    """Against scipy's way of counting: ranks (Mann and Whitney)."""
    rng = np.random.default_rng(0)
    good = rng.random(200) < 0.7
    values = np.round(rng.normal(size=200) + 0.8 * good, 1)  # with ties
    prompts = [f"p{n % 20}" for n in range(200)]
    found = auc(values.tolist(), good.tolist(), prompts=prompts)
    assert found is not None
    order = values.argsort(kind="stable")
    ranks = np.empty(200)
    for value in np.unique(values):
        places = np.flatnonzero(values[order] == value)
        ranks[order[places]] = places.mean() + 1
    count = int(good.sum())
    expected = (ranks[good].sum() - count * (count + 1) / 2) / (count * (200 - count))
    assert found["value"] == pytest.approx(expected, abs=1e-12)
    low, high = found["interval"]
    assert low < found["value"] < high and low > 0.5 and high - low < 0.3
    assert auc([1.0, 2.0], [True, True], prompts=["a", "b"]) is None
