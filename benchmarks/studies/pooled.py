"""Figures of several runs together, with intervals over prompts and over runs: what other seeds would give, too."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from buffers.figures import Figure, deviation, difference, figure, interval_of


def figure_of_runs(values: Sequence[Any], *, prompts: Sequence[Any], runs: Sequence[Any]) -> Figure:
    """`buffers.figures.figure`; prompts, runs: whose each value is."""
    return figure(values, prompts=prompts) | {"interval": _interval(values, prompts, runs)}


def difference_of_runs(
    after: Sequence[Any], before: Sequence[Any], *, prompts: Sequence[Any], runs: Sequence[Any]
) -> Figure:
    """`buffers.figures.difference`; prompts, runs: whose each value is."""
    changes = [float(now) - float(was) for now, was in zip(after, before, strict=True)]
    return difference(after, before, prompts=prompts) | {"interval": _interval(changes, prompts, runs)}


def deviation_of_runs(values: np.ndarray, prompts: Sequence[Any], runs: Sequence[Any]) -> tuple[float, float]:
    """Standard deviation of the mean of values of crossed prompts and runs, and its degrees of freedom.

    The variance is the prompts' and the runs' less that of their cells (Cameron, Gelbach and Miller 2011, eq. 2.9),
    with Satterthwaite's degrees of freedom.
    """
    (of_prompts, free), (of_runs, free_runs) = deviation(values, prompts), deviation(values, runs)
    if len(set(runs)) == 1:
        return of_prompts, free
    of_cells, _ = deviation(values, list(zip(prompts, runs, strict=True)))
    both = max(of_prompts**2 + of_runs**2 - of_cells**2, of_prompts**2, of_runs**2)
    of_parts = of_prompts**4 / free + of_runs**4 / free_runs
    return math.sqrt(both), max(min(free, free_runs), both**2 / of_parts if of_parts else 0.0)


def _interval(values: Sequence[Any], prompts: Sequence[Any], runs: Sequence[Any]) -> list[float]:
    spread, freedom = deviation_of_runs(np.asarray(values, dtype=float), prompts, runs)
    return interval_of(values, spread, freedom, groups=len(set(prompts)))
