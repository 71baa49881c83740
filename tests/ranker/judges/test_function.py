"""A plain function as the judge: larger is better, ties and numbers that are none are dropped with their reason."""

import math

import numpy as np
import pytest

from buffers.records import CandidateVideos, Condition
from configs.sections import RankerConfig
from ranker.judges.function import FunctionRanker


def clips(a: float, b: float) -> CandidateVideos:
    videos = (np.full((2, 4, 4, 3), value, np.uint8) for value in (a, b))
    return CandidateVideos(Condition("c", "a prompt", "general"), *videos, fps=8.0, policy_version=0)


def ranker(function: str) -> FunctionRanker:
    return FunctionRanker(RankerConfig(kind="function", function=function))


def not_finite_if_dark(frames: np.ndarray, prompt: str) -> float:
    return float(frames.mean()) if frames.mean() > 50 else math.nan


def test_the_video_with_the_larger_number_is_preferred():
    judge = ranker("examples.miniature.brightness:brightness")
    first, second, tie = judge.rank([clips(200, 10), clips(10, 200), clips(90, 90)])
    assert (first.a_is_chosen, first.a, first.b, first.dropped) == (True, 200.0, 10.0, None)
    assert (second.a_is_chosen, second.dropped) == (False, None)
    assert tie.dropped == "tie"
    assert judge.times().counts == {"pairs": 3, "usable": 2, "tie": 1}


def test_a_number_that_is_none_is_dropped_and_counted():
    judge = FunctionRanker(RankerConfig(kind="function", function="examples.miniature.brightness:brightness"))
    judge._score = not_finite_if_dark
    assert [each.dropped for each in judge.rank([clips(200, 10), clips(200, 100)])] == ["not_finite", None]


@pytest.mark.parametrize("path", ["nowhere:score", "examples.miniature.brightness:nothing", "json:__name__"])
def test_what_is_no_function_is_named_with_its_key(path: str):
    with pytest.raises(ValueError, match=rf"ranker\.function = {path}"):
        ranker(path)
