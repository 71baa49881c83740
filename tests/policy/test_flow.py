# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalSubscript=false
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from policy.flow import inference_grid, interpolate, shift_sigma, unshifted_sigmas, velocity_target

ROOT = Path(__file__).parents[2]


def unipc(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def test_interpolate_by_hand_with_a_sigma_per_sample():
    clean, noise = torch.full((2, 1, 3), 4.0), torch.full((2, 1, 3), -2.0)
    mixed = interpolate(clean, noise, torch.tensor([0.25, 1.0]))
    assert mixed[0].tolist() == [[2.5, 2.5, 2.5]]
    assert mixed[1].tolist() == [[-2.0, -2.0, -2.0]]


def test_interpolate_is_diffusers_own_noising():
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(6)
    clean, noise = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    at = scheduler.timesteps[torch.tensor([1, 4])]
    theirs = scheduler.scale_noise(clean, at, noise)
    torch.testing.assert_close(interpolate(clean, noise, at / 1000), theirs)


def test_velocity_is_the_slope_of_the_interpolation():
    clean, noise = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    slope = (interpolate(clean, noise, 0.6 + 1e-6) - interpolate(clean, noise, 0.6 - 1e-6)) / 2e-6
    torch.testing.assert_close(velocity_target(clean, noise), slope, atol=1e-8, rtol=0)


@pytest.mark.parametrize("scheduler", [unipc(3.0), FlowMatchEulerDiscreteScheduler(shift=3.0)])
def test_a_scheduler_fed_the_velocity_target_ends_at_the_clean_video(scheduler):
    torch.manual_seed(0)
    clean, noise = torch.randn(1, 4, 2, 2, 2), torch.randn(1, 4, 2, 2, 2)
    grid = inference_grid(scheduler, 5)
    scheduler.set_timesteps(5)
    latents = interpolate(clean, noise, grid.sigmas[0])
    for timestep in grid.timesteps:
        latents = scheduler.step(velocity_target(clean, noise), timestep, latents, return_dict=False)[0]
    torch.testing.assert_close(latents, clean, atol=1e-4, rtol=0)


def test_shift_by_hand():
    assert shift_sigma(torch.tensor([0.5, 0.25, 1.0]), 3.0).tolist() == pytest.approx([0.75, 0.5, 1.0])
    assert shift_sigma(torch.tensor([0.3]), 1.0).item() == pytest.approx(0.3)


def test_a_larger_shift_is_noisier():
    unshifted = torch.linspace(0.05, 0.95, 10)
    assert (shift_sigma(unshifted, 6.0) > shift_sigma(unshifted, 3.0)).all()


def test_shift_must_be_positive():
    with pytest.raises(ValueError, match=r"flow shift must be positive, got 0"):
        shift_sigma(torch.tensor(0.5), 0.0)


def test_unipc_grid_is_what_inference_visits():
    grid = inference_grid(unipc(3.0), 5)
    assert grid.timesteps.tolist() == [999, 923, 818, 667, 429]
    assert grid.sigmas.tolist() == pytest.approx([0.99999, 0.92317, 0.81843, 0.66722, 0.42979], abs=1e-5)
    assert len(grid.timesteps) == 5


def test_euler_grid_keeps_its_float_timesteps_and_its_double_shift():
    grid = inference_grid(FlowMatchEulerDiscreteScheduler(shift=3.0), 5)
    assert grid.timesteps.tolist() == pytest.approx([1000, 900.36, 751.12, 502.99, 8.93], abs=0.01)
    assert grid.sigmas.tolist() == pytest.approx([1.0, 0.90036, 0.75112, 0.50299, 0.00893], abs=1e-5)


def test_reading_the_grid_leaves_the_scheduler_alone():
    scheduler = unipc(3.0)
    scheduler.set_timesteps(7)
    before = scheduler.timesteps.clone()
    inference_grid(scheduler, 3)
    assert torch.equal(scheduler.timesteps, before)


@pytest.mark.parametrize("shift", [3.0, 5.0])
def test_unshifted_sigmas_are_evenly_spaced_and_shift_to_the_grid(shift: float):
    unshifted = unshifted_sigmas(unipc(shift), 4)
    assert unshifted.tolist() == pytest.approx([1.0, 0.75025, 0.5005, 0.25075], abs=2e-6 * shift)
    sigmas = inference_grid(unipc(shift), 4).sigmas.double()
    torch.testing.assert_close(shift_sigma(unshifted, shift), sigmas, atol=3e-6, rtol=0)


ACCEPTED = {
    "UniPC": lambda shift: unipc(shift),
    "Euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    "Euler from the config of UniPC": lambda shift: FlowMatchEulerDiscreteScheduler.from_config(
        unipc(3.0).config, shift=shift
    ),
    "UniPC from the config of Euler": lambda shift: UniPCMultistepScheduler.from_config(
        FlowMatchEulerDiscreteScheduler(shift=7.0).config,
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        flow_shift=shift,
    ),
}


@pytest.mark.parametrize("steps", [4, 10, 40])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize("make", ACCEPTED.values(), ids=list(ACCEPTED))
def test_at_its_own_shift_a_scheduler_has_the_sampler_s_grid(make: Any, shift: float, steps: int):
    scheduler = make(shift)
    visited = make(shift)
    visited.set_timesteps(steps)
    shifted = shift_sigma(unshifted_sigmas(scheduler, steps), shift)
    torch.testing.assert_close(shifted.float(), torch.as_tensor(visited.sigmas[:-1]), atol=2e-6, rtol=0)


def test_importing_the_flow_loads_torch_and_no_more():
    heavy = "{'diffusers', 'transformers', 'peft', 'ray', 'vllm'}"
    code = f"import sys, policy.flow; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
