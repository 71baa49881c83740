"""From stored pairs to their losses: the batch's tensors, and one reference and one policy pass of a few pairs.

Where the flow (`policy.flow`), the model (`policy.policy`) and the objective meet; no optimizer and no window here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from buffers.records import Batch
from buffers.tensors import decode
from learner.objectives.dpo import DpoTerms, dpo_loss, residual
from learner.timesteps import keyed_generator
from policy.flow import interpolate, velocity_target
from policy.lora.adapters import reference_pass
from policy.policy import VideoPolicy


@dataclass(frozen=True)
class PairTensors:
    """One pair on the CPU.

    `chosen`, `rejected`, `noise`: float32 `[channels, latent_frames, latent_height, latent_width]`;
    `prompt`: `[tokens, dim]`.
    """

    id: str
    chosen: Tensor
    rejected: Tensor
    noise: Tensor
    prompt: Tensor


def load_pairs(batch: Batch, *, seed: int) -> list[PairTensors]:
    """The batch's pairs with the noise of its step: one draw per (seed, step, pair), for both videos and all timesteps.

    Raises ValueError where a pair's two latents differ in shape or its conditioning is missing, FloatingPointError
    where one of them is not finite; each names the pair.
    """
    prompts = {key: decode(conditioning.prompt_embeds) for key, conditioning in batch.conditionings.items()}
    loaded = []
    for pair in batch.pairs:
        if pair.condition_id not in prompts:
            raise ValueError(f"pair {pair.id}: the batch has no conditioning {pair.condition_id}")
        chosen, rejected, prompt = (
            decode(pair.chosen).float(),
            decode(pair.rejected).float(),
            prompts[pair.condition_id],
        )
        if chosen.shape != rejected.shape:
            raise ValueError(
                f"pair {pair.id}: chosen latents have shape {tuple(chosen.shape)}, rejected {tuple(rejected.shape)}; "
                "they share one noise, so they must be equal"
            )
        for name, tensor in (("chosen latents", chosen), ("rejected latents", rejected), ("prompt embeddings", prompt)):
            if not tensor.isfinite().all():
                raise FloatingPointError(f"pair {pair.id}: its {name} are not finite")
        noise = torch.randn(chosen.shape, generator=keyed_generator("noise", seed, batch.step, pair.id))
        loaded.append(PairTensors(pair.id, chosen, rejected, noise, prompt))
    return loaded


def microbatches(pairs: Sequence[PairTensors], count: int) -> list[list[int]]:
    """Places of up to `count` pairs whose videos have one size: a store may hold several.

    Example: pairs of sizes a, b, a with count 2 make [[0, 2], [1]].
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for place, pair in enumerate(pairs):
        by_shape.setdefault(pair.chosen.shape, []).append(place)
    return [places[start : start + count] for places in by_shape.values() for start in range(0, len(places), count)]


def pair_loss(
    policy: VideoPolicy, pairs: list[PairTensors], *, timesteps: Tensor, sigmas: Tensor, expert: str, beta: float
) -> tuple[DpoTerms, Tensor]:
    """The terms of each pair at its timestep, and the drift: mean squared velocity difference from the reference.

    `timesteps`, `sigmas`: `[pairs]`. Two passes of `2 * pairs` rows, chosen first: the reference's without a graph, the
    policy's with one. The adapters are switched back before this returns, so a checkpointed backward recomputes the
    policy. Drift `[pairs]` is averaged over both videos. Raises FloatingPointError that names the pairs and timesteps
    whose loss is not finite.
    """
    clean = torch.stack([p.chosen for p in pairs] + [p.rejected for p in pairs]).to(policy.device)
    noise = torch.stack([p.noise for p in pairs] * 2).to(policy.device)
    prompts = torch.stack([p.prompt for p in pairs] * 2).to(policy.device)
    noisy = interpolate(clean, noise, sigmas.repeat(2))
    target = velocity_target(clean, noise)
    timestep = timesteps.repeat(2).to(policy.device)
    with reference_pass(policy.transformers):
        reference = policy.velocity(noisy, timestep=timestep, prompt_embeds=prompts, expert=expert)
    velocity = policy.velocity(noisy, timestep=timestep, prompt_embeds=prompts, expert=expert)
    policy_chosen, policy_rejected = residual(velocity, target).chunk(2)
    reference_chosen, reference_rejected = residual(reference, target).chunk(2)
    terms = dpo_loss(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
        beta=beta,
    )
    failed = [
        f"{pair.id} (timestep {timestep:g})"
        for pair, timestep, finite in zip(pairs, timesteps.tolist(), terms.loss.isfinite().tolist(), strict=True)
        if not finite
    ]
    if failed:
        raise FloatingPointError(f"the loss is not finite for pair {', '.join(failed)}")
    return terms, residual(velocity.detach(), reference).view(2, -1).mean(0)
