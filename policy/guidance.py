"""Guidance: what is added to the conditional prediction, in sampling and in the teacher of distillation (Eq. 3).

    u + s (c - u) + lam (c - k)      c: conditional, u: unconditional, k: conditional with blocks skipped

s = 1 + w is diffusers' `guidance_scale`. The second term is classifier-free guidance, the third one spatiotemporal skip
guidance (STG). The paper names the direction of STG and does not define it; c - k is that of the STG paper, and of
diffusers' `SkipLayerGuidance`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from configs.sections import SamplingConfig
from policy.conditioning import Conditioning
from policy.policy import VideoPolicy

Scale = float | Tensor
"""One number, or `[batch]`."""


def guided_velocity(
    policy: VideoPolicy,
    latents: Tensor,
    timestep: Tensor,
    conditioning: Conditioning,
    negative: Conditioning | None,
    *,
    expert: str,
    sampling: SamplingConfig,
    scale: Scale,
    stg_scale: Scale,
) -> tuple[Tensor, Tensor]:
    """The guided prediction and the conditional one, with whichever adapter is active.

    Both `[batch, channels, frames, height, width]`. `latents`, `timestep`, `conditioning`, `expert`: as
    `VideoPolicy.velocity` takes them; `negative`: one row, of the negative prompt. `scale`: s, 1 is no guidance;
    `stg_scale`: lam, 0 is none. A pass that no video needs is not made. `sampling` says which blocks are skipped, and
    how. Raises ValueError if guidance has no negative conditioning.
    """
    if not _any(scale, above=1.0):
        prediction = conditional = policy.velocity(latents, timestep, conditioning, expert)
    else:
        if negative is None:
            raise ValueError(f"guidance_scale = {scale} needs the conditioning of a negative prompt")
        both = (conditioning, conditioning.with_prompt(negative))
        if sampling.guidance_passes == "separate":
            passes = [policy.velocity(latents, timestep, each, expert) for each in both]
        else:
            joined = Conditioning.joined(both)
            passes = policy.velocity(torch.cat([latents, latents]), timestep.repeat(2), joined, expert).chunk(2)
        conditional, unconditional = passes
        prediction = unconditional + _per_video(scale, latents) * (conditional - unconditional)
    if _any(stg_scale, above=0.0):
        with skipping(policy.transformers[expert], sampling.stg_blocks, sampling.stg_skip):
            skipped = policy.velocity(latents, timestep, conditioning, expert)
        prediction = prediction + _per_video(stg_scale, latents) * (conditional - skipped)
    return prediction, conditional


@contextmanager
def skipping(transformer: nn.Module, blocks: Sequence[int], skip: Literal["block", "attention"]) -> Iterator[None]:
    """Inside, forward passes of the transformer leave these blocks out, or what self-attention mixes in them.

    `attention`: every token attends to itself alone, so that its own value is all that goes on (the attention map is
    the identity, STG-A). `block`: its input is its output (STG-R). Do not enter it between a checkpointed forward pass
    and its backward pass: the recomputation would skip, too.
    """
    every: Any = transformer.blocks
    changed = [every[index] if skip == "block" else every[index].attn1 for index in blocks]
    before = [vars(module).get("forward") for module in changed]
    try:
        for module in changed:
            module.forward = _its_input if skip == "block" else partial(_its_values, module)
        yield
    finally:
        for module, forward in zip(changed, before, strict=True):
            if forward is None:
                del module.forward  # the class's own again
            else:
                module.forward = forward


def _its_input(hidden_states: Tensor, *_: Any) -> Tensor:
    return hidden_states


def _its_values(attention: Any, hidden_states: Tensor, *_: Any) -> Tensor:
    values = attention.to_v(hidden_states)
    for layer in attention.to_out:
        values = layer(values)
    return values


def _any(scale: Scale, *, above: float) -> bool:
    return bool((torch.as_tensor(scale) > above).any())


def _per_video(scale: Scale, like: Tensor) -> Scale:
    """`scale` so that it multiplies each video by its own number."""
    return scale.to(like.device).view(-1, *[1] * (like.ndim - 1)) if isinstance(scale, Tensor) else scale
