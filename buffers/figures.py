"""Named figures of many videos, each with a 95% interval: rates, means, and paired differences of either.

A meter gives named values of one video: a bool becomes a rate, a number becomes a mean, a text is counted.

Videos of one prompt are alike, so 512 videos of 24 prompts say less than 512 prompts would. Every interval is therefore
over prompts: it tells what other prompts would give. What other seeds would give, the interval of a single run cannot
tell (`benchmarks/studies/pooled.py` has figures of several runs).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, get_args

import numpy as np

from buffers.labels import DISAGREED, FIRST, PLACES
from configs.sections import Domain

Z95 = NormalDist().inv_cdf(0.975)

T95 = (12.706, 4.303, 3.182, 2.776)
"""Student's 97.5% quantiles of 1 to 4 degrees of freedom (Fisher and Yates, table III)."""

Value = bool | float | str
"""What a meter says of one video under one name."""

Measured = dict[str, list[Any]]
"""Videos in columns, all of one length: `prompt`, `domain`, and each named value."""

NOT_VALUES = ("prompt", "domain")
"""The columns of `Measured` that say whose the values are."""

Figure = dict[str, Any]
"""A figure as plain JSON: `value`, `interval` [low, high], `of` how many values of how many `prompts`, and what `about`
says of it.

A rate also has `count`. A difference has `rose` and `fell`, how many values did; `points` says whether it is one of
rates. `better`: "higher", "lower" or None. `unit`: for people, e.g. "pixels per frame".
"""


def figure(values: Sequence[Any], *, prompts: Sequence[Any] | None = None, **about: Any) -> Figure:
    """The rate of bools, or the mean of numbers.

    prompts: whose each value is. None: every value is by itself. Raises ValueError if there are no values.
    """
    if not len(values):
        raise ValueError("a figure of no values")
    sample = np.asarray(values, dtype=float)
    groups = len(sample) if prompts is None else len(set(prompts))
    made = {"value": float(sample.mean()), "of": len(sample), "prompts": groups, **about}
    made["interval"] = interval_of(values, *deviation(sample, prompts), groups=groups)
    return made | {"count": int(sample.sum())} if _all_bools(values) else made


def interval_of(values: Sequence[Any], spread: float, freedom: float, *, groups: int) -> list[float]:
    """Low and high end; spread, freedom: standard deviation of the values' mean, and its degrees of freedom.

    A mean's interval is Student's. A rate's is Wilson's, of as many independent values as would vary as much (Dean and
    Pagano 2015); if all values are alike, of as many as there are `groups`.
    """
    sample = np.asarray(values, dtype=float)
    middle = float(sample.mean())
    if not _all_bools(values):
        half = quantile(freedom) * spread
        return [middle - half, middle + half]
    alone, _ = deviation(sample, None)
    independent = len(sample) * min(1.0, (alone / spread) ** 2) if spread else groups
    return list(wilson_interval(middle, independent, quantile(freedom)))


def difference(after: Sequence[Any], before: Sequence[Any], *, prompts: Sequence[Any] | None = None) -> Figure:
    """Of paired values, such as videos of one prompt and one seed: the mean of after less before, and its interval.

    Raises ValueError if there are none, or more of one than of the other.
    """
    pairs = list(zip(after, before, strict=True))
    changes = [float(now) - float(was) for now, was in pairs]
    rose, fell = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    points = _all_bools(after) and _all_bools(before)
    return figure(changes, prompts=prompts, rose=rose, fell=fell, points=points)


def figures_of(measured: Measured, about: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """The figures that `about` names, in its order. Empty if there are no videos."""
    named = {name: meaning for name, meaning in about.items() if measured.get(name)}
    return {name: figure(measured[name], prompts=measured["prompt"], **meaning) for name, meaning in named.items()}


def differences_of(after: Measured, before: Measured) -> dict[str, Figure]:
    """The figures that both have, paired video by video. Empty if they are not of the same prompts in one order."""
    if after.get("prompt") != before.get("prompt"):
        return {}
    both = [name for name in after if name in before and name not in NOT_VALUES and not _texts(after[name])]
    return {name: difference(after[name], before[name], prompts=after["prompt"]) for name in both}


def auc(values: Sequence[float], good: Sequence[bool], *, prompts: Sequence[Any]) -> Figure | None:
    """How often the value of a good video is larger than that of another one, ties counted as half; 0.5 is chance.

    The interval is a bootstrap over prompts. None if all videos are good, or none is.
    """
    sample, is_good = np.asarray(values, dtype=float), np.asarray(good, dtype=bool)
    if is_good.all() or not is_good.any():
        return None

    def of(rows: np.ndarray) -> float:
        one, two = sample[rows][is_good[rows]], sample[rows][~is_good[rows]]
        apart = one[:, None] - two
        return float(((apart > 0) + 0.5 * (apart == 0)).mean()) if apart.size else math.nan

    names, drawing = sorted(set(prompts)), np.random.default_rng(0)
    by_prompt = {name: np.flatnonzero([prompt == name for prompt in prompts]) for name in names}
    drawn = [np.concatenate([by_prompt[each] for each in drawing.choice(names, len(names))]) for _ in range(500)]
    interval = np.nanquantile([of(rows) for rows in drawn], [0.025, 0.975]).tolist()
    return {"value": of(np.arange(len(sample))), "of": len(sample), "prompts": len(names), "interval": interval}


def position_bias(counts: Mapping[str, Any]) -> dict[str, Figure]:
    """For how many of the pairs whose orders disagree both chose the video shown first; an unbiased judge gives half.

    Over `all`, by domain (`human`), and by domain and label (`human/3`), if there are such pairs. counts: of verdicts.
    """
    parts = {"all": PLACES} | {domain: [p for p in PLACES if p.startswith(domain)] for domain in get_args(Domain)}
    parts |= {place.replace("_", "/"): [place] for place in PLACES}
    found = {}
    for name, places in parts.items():
        disagreed, first = (sum(counts.get(key.format(place), 0) for place in places) for key in (DISAGREED, FIRST))
        if disagreed:
            found[name] = figure([True] * first + [False] * (disagreed - first), unit="of disagreeing pairs")
    return found


def by_domain(measured: Measured) -> dict[str, Measured]:
    """The videos of each domain, in the order in which the domains come."""
    parts: dict[str, Measured] = {}
    for domain in dict.fromkeys(measured.get("domain", ())):
        kept = [place for place, where in enumerate(measured["domain"]) if where == domain]
        parts[domain] = {name: [column[place] for place in kept] for name, column in measured.items()}
    return parts


def text_counts(measured: Measured) -> dict[str, dict[str, int]]:
    """How often each text was given under each name. An empty text is not counted."""
    texts = {name: column for name, column in measured.items() if name not in NOT_VALUES and _texts(column)}
    return {name: dict(Counter(filter(None, column)).most_common()) for name, column in texts.items()}


def deviation(values: np.ndarray, groups: Sequence[Any] | None) -> tuple[float, float]:
    """Standard deviation of the mean of values that come in groups, and its degrees of freedom.

    The variance is that of the groups' sums (Liang and Zeger 1986); of one group, that of the values alone, as nothing
    tells how groups vary. groups: whose each value is; None: every value is by itself.
    """
    apart = values - values.mean()
    names = [str(group) for group in (range(len(values)) if groups is None else groups)]
    places = np.unique(names, return_inverse=True)[1]
    if not places.any():
        places = np.arange(len(values))
    sums = np.bincount(places, apart)
    if (count := len(sums)) == 1:
        return 0.0, 1.0
    return math.sqrt(count / (count - 1) * float(sums @ sums) / len(values) ** 2), count - 1.0


def quantile(freedom: float) -> float:
    """Student's 97.5% quantile (from five degrees of freedom on by Abramowitz and Stegun 26.7.5)."""
    if freedom < len(T95) + 1:
        return T95[int(freedom) - 1]
    z, n = Z95, freedom
    first, second = (z**3 + z) / (4 * n), (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    return z + first + second + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)


def wilson_interval(rate: float, trials: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a rate (Wilson 1927), at `z` standard deviations; (0, 1) for no trials."""
    if not trials:
        return 0.0, 1.0
    z2 = z**2
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    # The ends 0 and 1 are exact. Rounding would leave them 1e-16 off.
    return 0.0 if rate == 0 else middle - half, 1.0 if rate == 1 else middle + half


def _all_bools(values: Sequence[Any]) -> bool:
    return all(isinstance(value, bool | np.bool_) for value in values)


def _texts(column: list[Any]) -> bool:
    return any(isinstance(value, str) for value in column)
