"""The preference loss of one pair at one timestep: Diffusion-DPO for a flow-matching model.

Paper section 3.1, Eq. 1 and 2, with the velocity residual in the place of the noise residual (DESIGN 4). Nothing here
averages over pairs or timesteps: reductions belong to the caller.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from buffers.records import Batch
from learner.samples import PairTensors, load_pairs, noised
from policy.lora.adapters import reference_pass
from policy.policy import VideoPolicy


def residual(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity, over all elements of each sample, in float32 (Eq. 2).

    `velocity`, `target`: `[batch, ...]`, the same shape. Returns `[batch]`. Raises ValueError if the shapes differ
    (broadcasting would give a plausible wrong number).
    """
    if velocity.shape != target.shape:
        raise ValueError(
            f"velocity has shape {tuple(velocity.shape)}, its target {tuple(target.shape)}; they must be equal"
        )
    return (velocity.float() - target.float()).square().flatten(1).mean(1)


def dpo_loss(policy: Tensor, reference: Tensor, *, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 1 with the residuals of Eq. 2 as negative log-probabilities: the loss of each pair, and its figures.

    z = -(beta / 2) [(e_policy(chosen) - e_reference(chosen)) - (e_policy(rejected) - e_reference(rejected))] and the
    loss is -log sigmoid(z): log 2 if policy and reference are the same model.

    `policy`, `reference`: residuals `[2, pairs]`, of the chosen videos and of the rejected ones. The loss `[pairs]`
    carries the gradient. The figures `[pairs]` are detached. `implicit_accuracy`: 1 if the margin is above 0 (a tie, as
    at the first step, counts 0). `margin`: z, chosen minus rejected reward. `chosen_reward`, `rejected_reward`: how
    much better than the reference the policy predicts that video, times beta / 2.
    """
    chosen_reward, rejected_reward = -(beta / 2) * (policy - reference)
    margin = chosen_reward - rejected_reward
    figures = {
        "implicit_accuracy": (margin > 0).to(torch.float32),
        "margin": margin.detach(),
        "chosen_reward": chosen_reward.detach(),
        "rejected_reward": rejected_reward.detach(),
    }
    return -functional.logsigmoid(margin), figures


@dataclass(frozen=True)
class Dpo:
    """The objective: `dpo_loss` of every pair, and how far the policy has drifted from the reference."""

    beta: float
    figures = ("implicit_accuracy", "margin", "chosen_reward", "rejected_reward", "drift")
    guarded = ("drift", "implicit_accuracy", "loss")

    def load(self, batch: Batch, *, seed: int) -> list[PairTensors]:
        """Raises what `load_pairs` raises."""
        return load_pairs(batch, seed=seed)

    def __call__(
        self, policy: VideoPolicy, pairs: list[PairTensors], *, timesteps: Tensor, sigmas: Tensor, expert: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each pair at its timestep, with its gradient, and the figures; all `[pairs]` and float32.

        Two passes of either video: the reference's without a graph, the policy's with one. The adapters are switched
        back before this returns, so a checkpointed backward recomputes the policy. `drift`: mean squared difference of
        the two velocities, averaged over both videos.
        """
        errors, drifts = [], []
        for noisy, timestep, conditioning, target in noised(pairs, timesteps, sigmas, device=policy.device):
            with reference_pass(policy.transformers):
                reference = policy.velocity(noisy, timestep, conditioning, expert)
            velocity = policy.velocity(noisy, timestep, conditioning, expert)
            velocity, reference, target = (policy.learned(v, conditioning) for v in (velocity, reference, target))
            errors.append(torch.stack([residual(velocity, target), residual(reference, target)]))
            drifts.append(residual(velocity.detach(), reference))
        of_policy, of_reference = torch.stack(errors, dim=1)
        loss, figures = dpo_loss(of_policy, of_reference, beta=self.beta)
        return loss, figures | {"drift": torch.stack(drifts).mean(0)}
