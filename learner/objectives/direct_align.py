"""Direct-Align and SRPO: a video is noised with a noise that is known, one pass of the model, and x_0 is recovered.

x_a = a eps + (1 - a) x_0, x_b = x_a + (b - a) v, and the recovered video is (x_b - b eps) / (1 - b): x_0 itself if the
model predicts v = eps - x_0. A reward of a few of its frames is learned from; the gradient passes the model once.

Two branches. Denoising jumps to a cleaner level. Inversion jumps to a noisier one: its gradient has the other sign, so
its two texts change places. SRPO's reward is relative: (1 + d) times the similarity to the prompt with a positive
control word, less the similarity to that with a negative one. Source: `SRPO_train` of the authors' code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from buffers.records import Batch
from configs.sections import RewardConfig
from configs.stages import DirectAlignStage
from learner.levels import Jump, Levels
from learner.objectives.dpo import residual
from learner.reward import ImageTextReward, WordsFile
from learner.samples import load_pairs
from learner.timesteps import keyed_generator
from policy.conditioning import Conditioning
from policy.flow import interpolate
from policy.lora.adapters import reference_pass
from policy.policy import VideoPolicy
from policy.sampler import draw_noise


def recovered(noisy: Tensor, velocity: Tensor, noise: Tensor, jump: Jump) -> Tensor:
    """x_0 of a video at level a, by one step to level b and the noise that is known; all `[batch, ...]`."""
    moved = noisy + (jump.b - jump.a) * velocity
    return (moved - jump.b * noise) / (1 - jump.b)


@dataclass(frozen=True)
class Rollouts:
    """Two videos of one condition, each with the noise that it was made from; and where its frames are looked at.

    `videos`, `noises`: float32 `[channels, latent_frames, latent_height, latent_width]`. `first`: of the latent frames
    that are decoded.
    """

    id: str
    videos: tuple[Tensor, Tensor]
    noises: tuple[Tensor, Tensor]
    conditioning: Conditioning
    prompt: str
    step: int
    first: int

    @property
    def shape(self) -> torch.Size:
        return self.videos[0].shape


@dataclass(frozen=True)
class DirectAlign:
    """The objective: the hinge loss of the reward in each branch, and what holds the policy.

    `reward`, `drift`: of the denoising branch, if it is on. `motion_kept`: how much the recovered frames move, against
    those that the reference recovers: a recovered video is blurred and moves less than the video itself.
    """

    stage: DirectAlignStage
    settings: RewardConfig
    reward: ImageTextReward
    words: WordsFile | None
    levels: Levels
    figures = ("reward", "drift", "motion_kept")
    guarded = ("drift",)

    def load(self, batch: Batch, *, seed: int) -> list[Rollouts]:
        """Raises what `load_pairs` raises. A generated video's noise is drawn again from its seed, which its id names;
        people's videos get one of their own."""
        loaded = []
        for pair, read in zip(batch.pairs, load_pairs(batch, seed=seed), strict=True):
            frames, count = read.shape[1], self.settings.latent_frames
            places = range(min(1, frames - count), frames - count + 1)
            chosen = torch.randint(len(places), (), generator=keyed_generator("frames", seed, batch.step))
            noises = (read.noise, read.noise)
            if pair.source != "offline":
                ids = (pair.chosen_id, pair.rejected_id)
                one, two = (draw_noise(int(id_.rpartition("-")[2]), tuple(read.shape)) for id_ in ids)
                noises = (one, two)
            prompt = batch.conditionings[pair.condition_id].condition.prompt
            videos = (read.chosen, read.rejected)
            loaded.append(Rollouts(pair.id, videos, noises, read.conditioning, prompt, batch.step, places[int(chosen)]))
        return loaded

    def __call__(
        self, policy: VideoPolicy, rollouts: list[Rollouts], *, timesteps: Tensor, sigmas: Tensor, expert: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each sample, the mean over its two videos and the branches, with its gradient; and the figures.

        All `[samples]` and float32. `sigmas`: of one level, from which both jumps are made.
        """
        conditioning = Conditioning.joined([each.conditioning for each in rollouts]).to(policy.device)
        branches = self._branches(self.levels.nearest(float(sigmas[0])))
        words = self.words.now() if self.words else None
        texts = [words.at(each.step, each.prompt) if words else (each.prompt, "") for each in rollouts]
        first, losses, measured = rollouts[0].first, [], []
        for number in range(2):
            clean = torch.stack([each.videos[number] for each in rollouts]).to(policy.device)
            noise = torch.stack([each.noises[number] for each in rollouts]).to(policy.device)
            for branch in branches:
                noisy = interpolate(clean, noise, branch.jump.a)
                timestep = torch.full_like(timesteps, branch.jump.a * policy.facts.num_train_timesteps).to(noisy.device)
                with reference_pass(policy.transformers):
                    reference = policy.velocity(noisy, timestep, conditioning, expert)
                velocity = policy.velocity(noisy, timestep, conditioning, expert)
                both = [recovered(noisy, v.float(), noise, branch.jump) for v in (velocity, reference)]
                whole = [policy.with_first_frame(latents, conditioning) for latents in both]
                frames, held = (policy.decode_frames(latents, first, self.settings.latent_frames) for latents in whole)
                reward, kept = self._reward(frames, texts, branch), _motion(frames) / _motion(held).clamp(min=1e-6)
                drift = residual(policy.learned(velocity, conditioning), policy.learned(reference, conditioning))
                hinge = (self.settings.hinge - reward).relu()
                losses.append(hinge + self.stage.pull * drift + self.stage.motion_pull * (1 - kept).relu())
                measured.append(torch.stack([reward, drift, kept]).detach())
        means = torch.stack(measured).unflatten(0, (2, len(branches)))[:, 0].mean(0)
        return torch.stack(losses).mean(0), dict(zip(self.figures, means, strict=True))

    def _branches(self, level: int) -> list["Branch"]:
        """What is done at a level; the first one is measured."""
        stage, levels = self.stage, self.levels
        if stage.recover == "one_step":
            here = Jump(levels.sigma(level), 0.0, levels.denoising(level).place)
            return [Branch(here, stage.discounts, swapped=False)]
        denoising = [Branch(levels.denoising(level), stage.discounts, swapped=False)] * stage.denoising
        return denoising + [Branch(levels.inversion(level), stage.inversion_discounts, swapped=True)] * stage.inversion

    def _reward(self, frames: Tensor, texts: Sequence[tuple[str, str]], branch: "Branch") -> Tensor:
        """`[batch]` of frames `[batch, 3, frames, height, width]`: relative, or of the prompt alone without words."""
        seen = torch.linspace(0, frames.shape[2] - 1, min(self.settings.frames, frames.shape[2])).round().long()
        pictures = frames[:, :, seen].transpose(1, 2)
        one, two = (list(column) for column in zip(*texts, strict=True))
        if self.words is None:
            return self.reward(pictures, one)
        more, less = (two, one) if branch.swapped else (one, two)
        low, high = branch.discounts
        discount = low + (high - low) * branch.jump.place
        return (1 + discount) * self.reward(pictures, more) - self.reward(pictures, less)


@dataclass(frozen=True)
class Branch:
    """A jump, its range of d from the cleanest level to the noisiest, and whether its two texts change places."""

    jump: Jump
    discounts: Sequence[float]
    swapped: bool


def _motion(frames: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, `[batch]`; 1 if there is one frame."""
    if frames.shape[2] == 1:
        return frames.new_ones(len(frames))
    return frames.diff(dim=2).abs().flatten(1).mean(1)
