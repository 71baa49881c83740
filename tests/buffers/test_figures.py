import math

import pytest

from buffers.figures import normal_interval, wilson_interval


def test_wilson_is_the_root_of_its_own_equation():
    """The interval's ends p solve |k/n - p| = z sqrt(p (1 - p) / n), which is how Wilson defined it."""
    for k, n in ((0, 20), (3, 20), (55, 256), (256, 256)):
        low, high = wilson_interval(k, n)
        for end in (low, high):
            if 0 < end < 1:
                assert abs(k / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5)
        assert 0 <= low <= k / n <= high <= 1


def test_wilson_against_a_published_value():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 is 0.2553 to 0.3662
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_normal_interval_of_one_value_is_that_value():
    assert normal_interval([3.0]) == (3.0, 3.0)
