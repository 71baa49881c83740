"""Guidance distillation: one pass of the student learns to be the guided prediction of its teacher (Eq. 3 and 4).

The teacher is the frozen reference over the same base. It is guided as inference guides it: at those of the sampler's
steps that have guidance, and as strongly. The student is not told how strong the guidance is, because a plain Wan
transformer has no input for it. So of a range of scales it learns the mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from buffers.records import Batch
from configs.sections import SamplingConfig
from learner.objectives.dpo import residual
from learner.samples import PairTensors, load_pairs, noised
from learner.timesteps import keyed_generator
from policy.conditioning import Conditioning
from policy.flow import inference_grid
from policy.guidance import guided_velocity
from policy.lora.adapters import reference_pass
from policy.policy import VideoPolicy


@dataclass(frozen=True)
class GuidedPair(PairTensors):
    """Two videos of one condition, and where in their ranges the teacher's two scales are, in [0, 1]."""

    drawn: tuple[float, float]


@dataclass(frozen=True)
class Distill:
    """The objective: the mean squared distance of the student's one pass to the guided teacher.

    `sampling`: the teacher's. `scales`: the range of s = 1 + w of each expert; `stg_scales`: of lam. `negative`: one
    row.
    """

    sampling: SamplingConfig
    scales: Mapping[str, Sequence[float]]
    stg_scales: Sequence[float]
    negative: Conditioning
    figures = ("drift",)
    guarded = ("loss",)

    def load(self, batch: Batch, *, seed: int) -> list[GuidedPair]:
        """Raises what `load_pairs` raises. Which video of a pair is "chosen" means nothing: both are noised."""
        loaded = []
        for pair in load_pairs(batch, seed=seed):
            one, two = torch.rand(2, generator=keyed_generator("guidance", seed, batch.step, pair.id)).tolist()
            loaded.append(GuidedPair(**vars(pair), drawn=(one, two)))
        return loaded

    def __call__(
        self, policy: VideoPolicy, pairs: list[GuidedPair], *, timesteps: Tensor, sigmas: Tensor, expert: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each pair, the mean over its two videos, with its gradient; and `drift`: how far the student is
        from the teacher's own pass without guidance. All `[pairs]` and float32."""
        guided, skipping = self._has_guidance(policy, timesteps)
        drawn = torch.tensor([each.drawn for each in pairs])
        ranges = zip((self.scales[expert], self.stg_scales), drawn.T, strict=True)
        scale, stg_scale = (low + (high - low) * share for (low, high), share in ranges)
        scale, stg_scale = torch.where(guided, scale, 1.0), torch.where(skipping, stg_scale, 0.0)
        distances = []
        for noisy, timestep, conditioning, _ in noised(pairs, timesteps, sigmas, device=policy.device):
            with reference_pass(policy.transformers):
                inputs = (noisy, timestep, conditioning, self.negative)
                teacher, plain = guided_velocity(
                    policy, *inputs, expert=expert, sampling=self.sampling, scale=scale, stg_scale=stg_scale
                )
            student = policy.velocity(noisy, timestep, conditioning, expert)
            student, *targets = (policy.learned(v, conditioning) for v in (student, teacher, plain))
            distances.append(torch.stack([residual(student, target) for target in targets]))
        loss, drift = torch.stack(distances).mean(0)
        return loss, {"drift": drift.detach()}

    def _has_guidance(self, policy: VideoPolicy, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the sampler's step that is nearest to each timestep has either guidance; two times bool `[pairs]`."""
        grid = inference_grid(policy.scheduler, self.sampling.steps).timesteps.float()
        nearest = (timesteps.cpu()[:, None] - grid).abs().argmin(1)
        steps = (self.sampling.guided_steps, self.sampling.skipping_steps)
        guided, skipping = (torch.isin(nearest, torch.tensor(list(of))) for of in steps)
        return guided, skipping
