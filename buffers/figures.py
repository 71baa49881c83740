"""95% intervals of rates and means."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

Z95 = NormalDist().inv_cdf(0.975)


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
