"""Noise to latents, step for step what `WanPipeline.__call__` does with `output_type="latent"`."""

import copy

import torch
from torch import Tensor

from policy.conditioning import Conditioning
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
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """Normalised float32 latents `[batch, channels, frames, height, width]`, with whichever adapter is active.

    `noise`: of that shape; `conditioning`: a row per video; `negative`: a row per video too, only needed with guidance
    (`guidance_scale` > 1, diffusers' meaning of the number).
    """
    guided = guidance_scale > 1.0
    if len(conditioning) != len(noise):
        raise ValueError(f"noise for {len(noise)} videos but conditioning for {len(conditioning)}")
    if guided:
        if negative is None or len(negative) != len(noise):
            raise ValueError(f"guidance_scale = {guidance_scale} needs a negative conditioning of {len(noise)} videos")
        conditioning = Conditioning.joined([conditioning, negative])
    conditioning = conditioning.to(policy.device)
    # A multistep scheduler remembers its trajectory, so each run steps a copy of its own.
    scheduler = copy.deepcopy(policy.scheduler)
    scheduler.set_timesteps(steps, device=policy.device)
    scheduler.set_begin_index(0)
    latents = noise.to(policy.device, torch.float32)
    for timestep in scheduler.timesteps:
        velocity = policy.velocity(
            torch.cat([latents, latents]) if guided else latents,
            timestep.expand(len(conditioning)),
            conditioning,
            expert=policy.expert_at(float(timestep)),
        )
        if guided:
            conditional, unconditional = velocity.chunk(2)
            velocity = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents.float()
