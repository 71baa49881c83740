"""The bands of a stage's figures: each warns once, stops at its outer edge, and goes by the mean of 16 steps."""

import pytest

from configs.sections import LearnerConfig
from learner.guards import MEAN_OF, Guards
from learner.objectives.distill import Distill
from learner.objectives.dpo import Dpo

FINE = {"drift": 0.05, "implicit_accuracy": 0.6, "loss": 0.7}


def test_one_step_says_nothing_and_the_mean_of_sixteen_does():
    guards = Guards(LearnerConfig(max_drift=[0.2, 1.0]), Dpo.guarded)
    assert [guards.see(FINE) for _ in range(MEAN_OF)] == [[]] * MEAN_OF
    assert guards.see({**FINE, "drift": 2.4}) == []  # the mean is 0.05 + 2.35 / 16 = 0.197
    [warned] = guards.see({**FINE, "drift": 0.2})
    assert (warned.figure, warned.stops) == ("drift", False)
    assert warned.value == pytest.approx((14 * 0.05 + 2.4 + 0.2) / 16)
    assert guards.see({**FINE, "drift": 0.2}) == [], "a warning is said once"
    found = [guards.see({**FINE, "drift": 1.7}) for _ in range(MEAN_OF)]
    assert found[-1][0].stops and "learner.max_drift = [0.2, 1.0]" in found[-1][0].advice
    assert "lower learner.learning_rate" in found[-1][0].advice


@pytest.mark.parametrize(
    ("figure", "key", "band", "value"),
    [("implicit_accuracy", "max_accuracy", [0.9, 1.0], 1.0), ("loss", "max_loss", [2.0, 10.0], 11.0)],
)
def test_every_band_stops_at_its_outer_edge_and_null_takes_it_away(
    figure: str, key: str, band: list[float], value: float
):
    config = LearnerConfig()
    seen = [Guards(config.model_copy(update={key: each}), Dpo.guarded) for each in (band, None)]
    for _ in range(MEAN_OF):
        found, none = (guards.see({**FINE, figure: value}) for guards in seen)
    assert [(each.figure, each.stops) for each in found] == [(figure, True)]
    assert none == []


def test_a_distillation_may_drift_as_far_as_it_has_to():
    guards = Guards(LearnerConfig(), Distill.guarded)
    assert [guards.see({"loss": 0.1, "drift": 5.0}) for _ in range(20)] == [[]] * 20
