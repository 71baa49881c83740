"""Named figures of many videos, each with a 95% interval: rates, means, and counts of texts.

A meter gives named values of one video: a bool becomes a rate, a number becomes a mean, a text is counted.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Any

Z95 = NormalDist().inv_cdf(0.975)

Value = bool | float | str
"""What a meter says of one video under one name."""

Figure = dict[str, Any]
"""A figure as plain JSON: `value`, `interval` [low, high], `of` (how many videos), and what `about` says of it.

A rate also has `count`. `better`: "higher", "lower" or None. `unit`: for people, e.g. "pixels per frame".
"""


def rate(count: int, of: int, **about: Any) -> Figure:
    """`count` of `of`, with Wilson's interval. Raises ZeroDivisionError if `of` is 0."""
    return {"value": count / of, "interval": list(wilson_interval(count, of)), "count": count, "of": of, **about}


def mean(values: Sequence[float], **about: Any) -> Figure:
    """The mean, with the interval of `normal_interval`. Raises StatisticsError if there are no values."""
    return {"value": fmean(values), "interval": list(normal_interval(values)), "of": len(values), **about}


def figures_of(videos: Sequence[Mapping[str, Value]], about: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """The figures that `about` names, in its order, over all videos. Empty if there are no videos."""
    figures = {}
    for name, meaning in about.items() if videos else ():
        values: list[Any] = [video[name] for video in videos]
        are_rates = all(isinstance(value, bool) for value in values)
        figures[name] = rate(sum(values), len(values), **meaning) if are_rates else mean(values, **meaning)
    return figures


def text_counts(videos: Sequence[Mapping[str, Value]]) -> dict[str, dict[str, int]]:
    """How often each text was given under each name. An empty text is not counted."""
    counts: dict[str, Counter[str]] = {}
    for video in videos:
        for name, value in video.items():
            if isinstance(value, str) and value:
                counts.setdefault(name, Counter())[value] += 1
    return {name: dict(counter.most_common()) for name, counter in counts.items()}


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95% score interval for a rate (Wilson 1927); (0, 1) for no trials."""
    if not trials:
        return 0.0, 1.0
    rate, z2 = successes / trials, Z95**2
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    # The ends 0 and 1 are exact. Rounding would leave them 1e-16 off.
    return 0.0 if not successes else middle - half, 1.0 if successes == trials else middle + half


def normal_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean by the normal approximation (sample deviation); one value gives itself twice."""
    mean = fmean(values)
    half = Z95 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean - half, mean + half
