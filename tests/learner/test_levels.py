"""Direct-Align's levels against the arithmetic of the authors' code, written down again."""

import copy

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from configs.sections import TimestepsConfig
from learner.levels import COUNT, MAX_SIGMA, Levels
from learner.timesteps import check_timesteps, draw_window

FLUX = FlowMatchEulerDiscreteScheduler(shift=3.0)
WAN = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)


def levels(scheduler: object = FLUX, steps: int = 50, **settings: object) -> Levels:
    return Levels(TimestepsConfig.model_validate({"kind": "levels", **settings}), scheduler, steps)


def test_levels_and_jumps_are_those_of_the_authors():
    """`SRPO_train`: 1,000 levels between points 5 and 25 of the schedule of 50 steps; k as floats have it."""
    scheduler = copy.deepcopy(FLUX)
    scheduler.set_timesteps(50)
    schedule = torch.as_tensor(scheduler.sigmas).tolist()
    s, length = np.linspace(schedule[5], schedule[25], 1000), int((1 - 0.9) * 1000) + 1
    assert length == 100
    ours = levels()
    for m in (5, 37, 60, 100, 101, 500, 899, 950, 995):
        k = min(1000 - m, length, m)
        inverse = max(m - k, 1)
        assert ours.denoising(m).a == pytest.approx(s[1000 - min(m + k, 1000)], abs=1e-7)
        assert ours.denoising(m).b == pytest.approx(s[1000 - m], abs=1e-7)
        assert ours.inversion(m).a == pytest.approx(s[1000 - inverse], abs=1e-7)
        assert ours.inversion(m).b == pytest.approx(s[1000 - min(inverse + k, 1000)], abs=1e-7)
        discounts = np.linspace(0.1, 0.25, 1000), np.linspace(0.3, 0.01, 1000)
        assert 0.1 + 0.15 * ours.denoising(m).place == pytest.approx(discounts[0][m])
        assert 0.3 - 0.29 * ours.inversion(m).place == pytest.approx(discounts[1][inverse])


def test_one_jump_goes_to_less_noise_and_the_other_to_more():
    ours = levels(WAN, 20)
    for m in ours.allowed:
        assert ours.denoising(m).a > ours.denoising(m).b and ours.inversion(m).a < ours.inversion(m).b
        assert ours.nearest(float(np.float32(ours.sigma(m)))) == m


def test_levels_from_which_x_0_cannot_be_recovered_are_left_out():
    all_of_it = levels(WAN, 20, levels=[0.0, 1.0])
    assert min(all_of_it.allowed) == 5 and max(all_of_it.allowed) < COUNT - 5
    assert all_of_it.left_out == 991 - len(all_of_it.allowed) > 0 == levels(WAN, 20).left_out
    assert (
        max(jump.b for m in all_of_it.allowed for jump in (all_of_it.denoising(m), all_of_it.inversion(m))) <= MAX_SIGMA
    )
    with pytest.raises(ValueError, match=r"learner\.timesteps\.levels = \[0\.0, 0\.02\].*use later levels"):
        levels(WAN, 20, levels=[0.0, 0.02])


@pytest.mark.parametrize("step", range(20))
def test_a_jump_never_crosses_the_boundary_of_the_experts(step: int):
    config = TimestepsConfig(kind="levels", levels=[0.1, 0.9])
    check_timesteps(config, WAN, 20, boundary_ratio=0.875)
    window = draw_window(config, scheduler=WAN, steps=20, seed=0, step=step, num_pairs=4, boundary_ratio=0.875)
    assert window.timesteps.shape == (1, 4) and torch.equal(window.timesteps, 1000 * window.sigmas)
    ours = Levels(config, WAN, 20, boundary_ratio=0.875)
    m = ours.nearest(float(window.sigmas[0, 0]))
    sides = {sigma >= 0.875 for jump in (ours.denoising(m), ours.inversion(m)) for sigma in (jump.a, jump.b)}
    assert sides == {window.experts == ("transformer",)}
