"""Noise to latents, step for step what `WanPipeline.__call__` does with `output_type="latent"`."""

import copy

import torch
from torch import Tensor

from configs.sections import SamplingConfig
from policy.conditioning import Conditioning
from policy.guidance import guided_velocity
from policy.policy import VideoPolicy

SEEDS = 2**32
"""torch's CPU generator keeps only the low 32 bits of a seed: two seeds that differ above them give the same noise."""


def draw_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 of that shape; the same on every machine for the same seed.

    Raises ValueError if `seed` is not in [0, 2^32).
    """
    if not 0 <= seed < SEEDS:
        raise ValueError(f"noise seed {seed}: must be at least 0 and below 2^32, larger ones repeat smaller ones")
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)


@torch.no_grad()
def sample_latents(
    policy: VideoPolicy,
    *,
    noise: Tensor,
    conditioning: Conditioning,
    negative: Conditioning | None,
    sampling: SamplingConfig,
) -> Tensor:
    """Normalised float32 latents `[batch, channels, frames, height, width]`, with whichever adapter is active.

    `noise`: of that shape; `conditioning`: a row per video; `negative`: one row, of the negative prompt, only needed
    with classifier-free guidance. `sampling`: its steps and its guidance; the size is that of the noise.
    """
    if len(conditioning) != len(noise):
        raise ValueError(f"noise for {len(noise)} videos but conditioning for {len(conditioning)}")
    conditioning = conditioning.to(policy.device)
    # A multistep scheduler remembers its trajectory, so each run steps a copy of its own.
    scheduler = copy.deepcopy(policy.scheduler)
    scheduler.set_timesteps(sampling.steps, device=policy.device)
    scheduler.set_begin_index(0)
    latents = noise.to(policy.device, torch.float32)
    for step, timestep in enumerate(scheduler.timesteps):
        expert = policy.expert_at(float(timestep))
        scale = sampling.scale_of(expert) if step in sampling.guided_steps else 1.0
        stg_scale = sampling.stg_scale if step in sampling.skipping_steps else 0.0
        inputs = (latents, timestep.expand(len(latents)), conditioning, negative)
        velocity, _ = guided_velocity(
            policy, *inputs, expert=expert, sampling=sampling, scale=scale, stg_scale=stg_scale
        )
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return policy.with_first_frame(latents, conditioning).float()
