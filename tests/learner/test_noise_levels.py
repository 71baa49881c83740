import pytest

from learner.noise_levels import by_expert, by_noise_level

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


def test_an_expert_that_never_got_a_timestep_is_named():
    def step(*visits):
        experts = {"transformer": 0, "transformer_2": len(visits)}
        return {"experts": experts, "window": [{"expert": "transformer_2", "level": 8, "drift": d} for d in visits]}

    distilled = step(6.0)
    distilled["window"][0] |= {"margin": 1.0}  # a figure that steps of another stage do not have
    assert by_expert([step(1.0, 2.0), distilled, STEPS[0]]) == {
        "transformer": {"timesteps": 0},
        "transformer_2": {"timesteps": 3, "drift": pytest.approx(3.0)},
    }
