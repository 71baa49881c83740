"""Noise to latents, step for step what `WanPipeline.__call__` does with `output_type="latent"`."""

import copy

import torch
from torch import Tensor

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
    prompt_embeds: Tensor,
    negative_embeds: Tensor | None,
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """Normalised float32 latents `[batch, channels, frames, height, width]`, with whichever adapter is active.

    `noise`: of that shape; `prompt_embeds`: `[batch, tokens, dim]`; `negative_embeds`: `[batch or 1, tokens, dim]`,
    only needed with guidance (`guidance_scale` > 1, diffusers' meaning of the number).
    """
    guided = guidance_scale > 1.0
    embeds = prompt_embeds.to(policy.device, policy.dtype)
    if len(embeds) != len(noise):
        raise ValueError(f"noise for {len(noise)} videos but prompt embeddings for {len(embeds)}")
    if guided:
        if negative_embeds is None:
            raise ValueError(f"guidance_scale = {guidance_scale} needs negative_embeds")
        embeds = torch.cat([embeds, negative_embeds.to(embeds).expand_as(embeds)])
    # A multistep scheduler remembers its trajectory, so each run steps a copy of its own.
    scheduler = copy.deepcopy(policy.scheduler)
    scheduler.set_timesteps(steps, device=policy.device)
    scheduler.set_begin_index(0)
    latents = noise.to(policy.device, torch.float32)
    for timestep in scheduler.timesteps:
        velocity = policy.velocity(
            torch.cat([latents, latents]) if guided else latents,
            timestep=timestep.expand(len(embeds)),
            prompt_embeds=embeds,
            expert=policy.expert_at(float(timestep)),
        )
        if guided:
            conditional, unconditional = velocity.chunk(2)
            velocity = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents.float()
