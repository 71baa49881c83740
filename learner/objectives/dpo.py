"""The preference loss of one pair at one timestep: Diffusion-DPO for a flow-matching model. Pure functions of tensors.

Paper section 3.1, Eq. 1 and 2, with the velocity residual in the place of the noise residual (DESIGN 4). Nothing here
averages over pairs or timesteps: reductions belong to the caller.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class DpoTerms:
    """What one pair contributes, each `[pairs]` and float32.

    `loss`: -log sigmoid(margin), carries the gradient. The others are detached: `accuracy`: 1 where the margin is above
    0 (a tie, as at the first step, counts 0); `margin`: chosen minus rejected reward; `chosen_reward`,
    `rejected_reward`: how much better than the reference the policy predicts that video, times beta / 2.
    """

    loss: Tensor
    accuracy: Tensor
    margin: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


def residual(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity, over all elements of each sample, in float32 (Eq. 2).

    `velocity`, `target`: `[batch, ...]`, the same shape. Returns `[batch]`. Raises ValueError where the shapes differ
    (broadcasting would give a plausible wrong number).
    """
    if velocity.shape != target.shape:
        raise ValueError(
            f"velocity has shape {tuple(velocity.shape)}, its target {tuple(target.shape)}; they must be equal"
        )
    return (velocity.float() - target.float()).square().flatten(1).mean(1)


def dpo_loss(
    *,
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> DpoTerms:
    """Eq. 1 with the residuals of Eq. 2 as negative log-probabilities; all four are residuals `[pairs]`.

    z = -(beta / 2) [(e_policy(chosen) - e_reference(chosen)) - (e_policy(rejected) - e_reference(rejected))] and the
    loss is -log sigmoid(z): log 2 wherever policy and reference are the same model.
    """
    chosen_reward = -(beta / 2) * (policy_chosen - reference_chosen)
    rejected_reward = -(beta / 2) * (policy_rejected - reference_rejected)
    margin = chosen_reward - rejected_reward
    return DpoTerms(
        loss=-functional.logsigmoid(margin),
        accuracy=(margin > 0).to(torch.float32),
        margin=margin.detach(),
        chosen_reward=chosen_reward.detach(),
        rejected_reward=rejected_reward.detach(),
    )
