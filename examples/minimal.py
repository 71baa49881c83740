"""Diffusion-APO in one process, top to bottom: prompts, videos, a judge, the loss, the optimizer.

    python -m examples.minimal            # the miniature world; a minute or two on a CPU

The product does the same with Ray between the parts: `cluster/online_loop.py` joins them, `actors/generator.py` makes
the videos, `ranker/` judges, `learner/learner.py` steps. Here every tensor is in sight. Shapes: P pairs, and latents
`[channels, frames, height, width]`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from configs.sections import LoraConfig, SamplingConfig, TimestepsConfig, Training
from learner.objectives.dpo import dpo_loss, residual
from learner.timesteps import draw_window, keyed_generator
from policy.conditioning import Conditioning, Described
from policy.flow import interpolate, velocity_target
from policy.lora.adapters import policy_parameters, reference_pass, save_lora
from policy.lora.optimizer import LoraOptimizer
from policy.policy import VideoPolicy
from policy.sampler import draw_noise, sample_latents

MINIATURE = Path(__file__).parent / "miniature"
LORA = LoraConfig(rank=16, alpha=16)
TIMESTEPS = TimestepsConfig()
"""The paper's window: 4 timesteps at or above 0.8 T that slide with the step, and 1 below; random shift and offset."""
SAMPLING_STEPS, GUIDANCE = 10, 2.0
FRAMES, HEIGHT, WIDTH = 9, 32, 32
BETA = 50.0

Judge = Callable[[np.ndarray, str], float]
"""From a video, uint8 `[frames, height, width, 3]`, and its prompt to a number; larger is better."""


def steadiness(video: np.ndarray, prompt: str) -> float:
    """The judge: minus how much the subject's area changes from frame to frame, in pixels.

    A subject that melts, splits or vanishes changes its area; one that only moves does not. Put your own metric or
    reward model here.
    """
    background = np.median(video.reshape(-1, 3), axis=0)
    area = (np.abs(video - background).max(-1) > 60).sum(axis=(1, 2))
    return -float(np.abs(np.diff(area)).mean())


def make_candidates(policy: VideoPolicy, conditions: list[Described], *, step: int) -> torch.Tensor:
    """Two videos of every condition, from different noise: latents `[P, 2, ...]`."""
    shape = policy.facts.latent_shape(FRAMES, HEIGHT, WIDTH)
    seeds = range(2 * len(conditions) * step, 2 * len(conditions) * (step + 1))
    latents = sample_latents(
        policy,
        noise=torch.stack([draw_noise(seed, shape) for seed in seeds]),
        conditioning=policy.prepare(conditions, num_frames=FRAMES).repeated(2),
        negative=policy.prompt_embeds([""]),
        sampling=SamplingConfig(steps=SAMPLING_STEPS, guidance_scale=GUIDANCE),
    )
    return latents.view(len(conditions), 2, *shape)


def prefer(
    policy: VideoPolicy, candidates: torch.Tensor, conditions: list[Described], judge: Judge
) -> tuple[torch.Tensor, torch.Tensor]:
    """The chosen and the rejected latents of every pair, each `[P, ...]`."""
    videos = policy.decode(candidates.flatten(0, 1))
    scores = [judge(video, conditions[place // 2].prompt) for place, video in enumerate(videos)]
    better = torch.tensor(scores).view(-1, 2).argmax(1)
    pair = torch.arange(len(conditions))
    return candidates[pair, better], candidates[pair, 1 - better]


def pair_losses(
    policy: VideoPolicy,
    conditioning: Conditioning,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    noise: torch.Tensor,
    *,
    timesteps: torch.Tensor,
    sigmas: torch.Tensor,
    expert: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and accuracy `[P]` at one timestep of the window (paper, Eq. 1 and 2); both videos share one noise."""
    clean, noise = torch.cat([chosen, rejected]), torch.cat([noise, noise])
    noisy, target = interpolate(clean, noise, sigmas.repeat(2)), velocity_target(clean, noise)
    both = Conditioning.joined([conditioning, conditioning])
    velocity = policy.velocity(noisy, timesteps.repeat(2), both, expert)
    with reference_pass(policy.transformers):  # the same model without its adapter
        reference = policy.velocity(noisy, timesteps.repeat(2), both, expert)
    errors, reference_errors = residual(velocity, target), residual(reference, target)
    loss, figures = dpo_loss(errors.view(2, -1), reference_errors.view(2, -1), beta=BETA)
    return loss, figures["implicit_accuracy"]


def align(*, steps: int, pairs: int, judge: Judge = steadiness, seed: int = 0) -> tuple[VideoPolicy, list[list[float]]]:
    """The aligned policy, and for each step `[loss, accuracy]`, means over window and pairs."""
    lines = (MINIATURE / "prompts" / "train.txt").read_text().splitlines()
    prompts = [line.split("\t")[1] for line in lines if line]
    policy = VideoPolicy.load(
        MINIATURE / "weights" / "bundle", dtype="float32", lora=LORA, seed=seed, max_text_tokens=16
    )
    optimizer = LoraOptimizer(dict(policy_parameters(policy.transformers)), Training(learning_rate=5e-4))
    log: list[list[float]] = []
    for step in range(steps):
        # On-policy data: this step's videos are made by the policy as it is now.
        picked = torch.randint(len(prompts), (pairs,), generator=keyed_generator("prompts", seed, step)).tolist()
        conditions = [Described(prompts[at]) for at in picked]
        candidates = make_candidates(policy, conditions, step=step)
        chosen, rejected = prefer(policy, candidates, conditions, judge)
        # The window: K timesteps of the trajectory that the sampler walks, each `[K, P]`.
        window = draw_window(
            TIMESTEPS, scheduler=policy.scheduler, steps=SAMPLING_STEPS, seed=seed, step=step, num_pairs=pairs
        )
        noise = torch.randn(chosen.shape, generator=keyed_generator("noise", seed, step))
        figures = []
        for timesteps, sigmas, expert in zip(window.timesteps, window.sigmas, window.experts, strict=True):
            losses, accuracy = pair_losses(
                policy,
                policy.prepare(conditions, num_frames=FRAMES),
                chosen,
                rejected,
                noise,
                timesteps=timesteps,
                sigmas=sigmas,
                expert=expert,
            )
            losses.mean().backward()  # gradients add up over the window
            figures.append(torch.stack([losses.detach().mean(), accuracy.mean()]))
        optimizer.step()
        log.append(torch.stack(figures).mean(0).tolist())
        print(f"step {step + 1} of {steps}: loss {log[-1][0]:.4f}, accuracy {log[-1][1]:.2f}", flush=True)
    return policy, log


def main() -> None:
    """Aligns the miniature and writes the adapter as diffusers loads it, if `--out` names a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=8, help="pairs per step")
    parser.add_argument("--out", help="folder for the adapter")
    given = parser.parse_args()
    policy, _ = align(steps=given.steps, pairs=given.pairs)
    if given.out:
        save_lora(given.out, policy.transformers, LORA)


if __name__ == "__main__":
    main()
