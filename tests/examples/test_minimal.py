import math

import numpy as np
import pytest

from examples.minimal import align, steadiness
from policy.lora.adapters import policy_parameters


def test_a_subject_that_keeps_its_area_is_preferred():
    steady = np.zeros((4, 16, 16, 3), np.uint8)
    for frame in range(4):
        steady[frame, 2:6, frame : frame + 4] = 200
    melting = steady.copy()
    melting[2] = 0
    assert steadiness(steady, "") == 0 > steadiness(melting, "")


def test_the_whole_algorithm_runs_and_its_first_step_costs_log_2(capsys: pytest.CaptureFixture[str]):
    policy, log = align(steps=2, pairs=2)
    assert log[0] == [pytest.approx(math.log(2), abs=1e-5), 0.0]
    assert log[1][0] != pytest.approx(math.log(2), abs=1e-5)
    moved = [parameter.abs().max() for name, parameter in policy_parameters(policy.transformers) if "lora_B" in name]
    assert min(moved) > 0
    assert "step 2 of 2: loss" in capsys.readouterr().out
