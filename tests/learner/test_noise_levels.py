import pytest

from learner.noise_levels import by_noise_level

STEPS = [
    {
        "levels": [{"level": 9, "pairs": 3, "loss": 1.0}, {"level": 2, "pairs": 1, "loss": 8.0}],
        "window": [{"level": 9, "grad_norm": 2.0}, {"level": None, "grad_norm": 100.0}],
    },
    {"levels": [{"level": 9, "pairs": 1, "loss": 5.0}], "window": [{"level": 9, "grad_norm": 4.0}]},
    {"step": 3},  # a row of a run from before levels were recorded
]


def test_means_weigh_pairs_and_norms_weigh_timesteps():
    assert by_noise_level(STEPS) == {
        2: {"pairs": 1, "loss": 8.0},
        9: {"pairs": 4, "loss": pytest.approx((3 * 1.0 + 5.0) / 4), "grad_norm": 3.0},
    }
    assert by_noise_level([]) == {}
