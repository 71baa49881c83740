"""One optimizer step of Diffusion-APO on the policy's LoRA adapter: a window of timesteps, accumulated, then AdamW.

A plain class: it knows of ranks only that its gradient is summed by a callable that it is given. It draws nothing from
a stream: the window is keyed by (seed, step), the noise by (seed, step, pair), so a restart repeats what was.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from buffers.records import Batch, Snapshot
from buffers.tensors import checksum, encode
from configs.schema import LearnerConfig
from learner.checkpoint import LearnerState
from learner.pair_loss import load_pairs, pair_loss
from learner.timesteps import TimestepWindow, check_timesteps, draw_window
from policy.adapters import adapter_state, load_adapter_state, policy_parameters
from policy.policy import VideoPolicy

FIGURES = ("loss", "implicit_accuracy", "margin", "chosen_reward", "rejected_reward", "drift")
"""Means over window and global batch."""

_TAIL = len(FIGURES) + 1
"""The reduced tensor ends with the sums of the figures and the number of ranks that failed."""


class Learner:
    """Holds the policy, its optimizer and the number of steps taken.

    `policy` must have been loaded with a LoRA config. `sampling_steps`: N, the steps that inference takes. `reduce`
    sums a flat float32 tensor over the ranks in place; every rank calls it once a step. Raises ValueError at once where
    the policy has no adapter, the window does not fit the inference grid, or the batch does not divide among the ranks.
    """

    def __init__(
        self,
        policy: VideoPolicy,
        config: LearnerConfig,
        *,
        sampling_steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        reduce: Callable[[Tensor], None] | None = None,
    ) -> None:
        if config.pairs_per_step % world_size:
            raise ValueError(
                f"learner.pairs_per_step = {config.pairs_per_step} does not divide among {world_size} learner workers; "
                "make it a multiple of learner.num_workers"
            )
        if world_size > 1 and reduce is None:
            raise ValueError(f"{world_size} learner workers need a `reduce` that sums a tensor over them")
        check_timesteps(config.timesteps, policy.scheduler, sampling_steps)
        self.policy = policy
        self.config = config
        self.sampling_steps = sampling_steps
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.steps = 0
        self._reduce = reduce
        self._parameters = {
            expert: dict(policy_parameters({expert: transformer}))
            for expert, transformer in policy.transformers.items()
        }
        everything = [parameter for named in self._parameters.values() for parameter in named.values()]
        if not everything:
            raise ValueError("the policy has no LoRA adapter to train; load it with lora=LoraConfig(...)")
        self._optimizer = torch.optim.AdamW(everything, lr=config.learning_rate, weight_decay=config.weight_decay)
        for transformer in policy.transformers.values():
            if config.gradient_checkpointing:
                transformer.enable_gradient_checkpointing()
            else:
                transformer.disable_gradient_checkpointing()

    @property
    def version(self) -> int:
        """The policy version that these weights would be published under; 0 is the policy as it was loaded."""
        return self.steps // self.config.publish_every

    def step(self, batch: Batch) -> dict[str, float]:
        """One AdamW step on this rank's share of the batch of step `self.steps`; returns what is logged.

        Figures are of the global batch, except staleness and seconds, which are this rank's; `grad_norm` is taken
        before clipping; `step` and `version` count this step. Raises FloatingPointError, on every rank, that names
        step, pairs and timesteps where a latent, a loss or the gradient is not finite, and ValueError where the batch
        is not the expected one; the policy, the optimizer and the counters are then as before.
        """
        started = time.perf_counter()
        self._check_batch(batch)
        window = draw_window(
            self.config.timesteps,
            scheduler=self.policy.scheduler,
            steps=self.sampling_steps,
            seed=self.seed,
            step=self.steps,
            num_pairs=self.config.pairs_per_step,
            boundary_ratio=self.policy.boundary_ratio,
        ).share(rank=self.rank, world_size=self.world_size)
        try:
            flat = self._attach_gradients(window)
            gradient, figures = flat[:-_TAIL], flat[-_TAIL:]
            self._accumulate_and_reduce(batch, window, flat)
            grad_norm = float(gradient.norm())
            if not math.isfinite(grad_norm):
                raise self._not_finite("the gradient is not finite", batch, window)
            gradient.mul_(min(1.0, self.config.max_grad_norm / (grad_norm + 1e-6)))
            self._optimizer.step()
        finally:
            # An expert that is not in the next window must find no gradient: AdamW would move it by momentum alone.
            self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        means = (figures[:-1] / (len(window.experts) * self.config.pairs_per_step)).tolist()
        return {
            "step": float(self.steps),
            "version": float(self.version),
            **dict(zip(FIGURES, means, strict=True)),
            "grad_norm": grad_norm,
            "staleness_mean": sum(batch.staleness) / len(batch.staleness),
            "staleness_max": float(max(batch.staleness)),
            "step_s": time.perf_counter() - started,
        }

    def snapshot(self) -> Snapshot:
        """The policy's adapter as it is now, as bytes, with the checksum that its receivers must answer with."""
        adapters = {
            expert: {name: encode(tensor) for name, tensor in tensors.items()}
            for expert, tensors in _cpu_copies(adapter_state(self.policy.transformers)).items()
        }
        return Snapshot(self.version, adapters, checksum(adapters))

    def state(self) -> LearnerState:
        """A copy on the CPU of everything that a restart needs; for `learner.checkpoint`."""
        slots = {
            expert: {name: self._optimizer.state[p] for name, p in named.items() if p in self._optimizer.state}
            for expert, named in self._parameters.items()
        }
        return LearnerState(
            seed=self.seed,
            steps=self.steps,
            version=self.version,
            adapters=_cpu_copies(adapter_state(self.policy.transformers)),
            exp_avg=_cpu_copies({e: {n: slot["exp_avg"] for n, slot in named.items()} for e, named in slots.items()}),
            exp_avg_sq=_cpu_copies(
                {e: {n: slot["exp_avg_sq"] for n, slot in named.items()} for e, named in slots.items()}
            ),
            adam_steps={e: {n: int(slot["step"]) for n, slot in named.items()} for e, named in slots.items()},
        )

    def restore(self, state: LearnerState) -> None:
        """Goes on from `state` as if never stopped.

        Raises ValueError where the state is another run's: another seed (its draws would differ), another version for
        the same steps (another `publish_every`), or an adapter that does not fit.
        """
        if state.seed != self.seed:
            raise ValueError(f"the checkpoint was made with seed {state.seed}, this run has seed {self.seed}")
        if state.version != state.steps // self.config.publish_every:
            raise ValueError(
                f"the checkpoint has version {state.version} at step {state.steps}, which learner.publish_every = "
                f"{self.config.publish_every} does not give; versions must not go backwards"
            )
        for expert, steps in state.adam_steps.items():
            strange = sorted(steps.keys() - self._parameters.get(expert, {}).keys())
            if strange:
                raise ValueError(f"the checkpoint's optimizer knows {strange[0]} of {expert}, this policy does not")
        load_adapter_state(self.policy.transformers, state.adapters)
        self._optimizer.state.clear()
        for expert, steps in state.adam_steps.items():
            for name, count in steps.items():
                parameter = self._parameters[expert][name]
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(count)),
                    "exp_avg": state.exp_avg[expert][name].to(parameter, copy=True),
                    "exp_avg_sq": state.exp_avg_sq[expert][name].to(parameter, copy=True),
                }
        self.steps = state.steps

    def _check_batch(self, batch: Batch) -> None:
        share = self.config.pairs_per_step // self.world_size
        if batch.step != self.steps:
            raise ValueError(f"the batch is of step {batch.step}, the learner is at step {self.steps}")
        if len(batch.pairs) != share:
            raise ValueError(
                f"step {batch.step}: the batch has {len(batch.pairs)} pairs for rank {self.rank} of {self.world_size}; "
                f"learner.pairs_per_step = {self.config.pairs_per_step} makes it {share}"
            )

    def _attach_gradients(self, window: TimestepWindow) -> Tensor:
        """Flat float32 zeros: every gradient of the window's experts is a view of it, and it ends with `_TAIL` figures.

        So backward adds straight into what is reduced. All ranks have the same experts, so the same length.
        """
        parameters = [
            parameter
            for expert, named in self._parameters.items()
            if expert in window.experts
            for parameter in named.values()
        ]
        size = sum(parameter.numel() for parameter in parameters)
        flat = torch.zeros(size + _TAIL, dtype=torch.float32, device=self.policy.device)
        offset = 0
        for parameter in parameters:
            parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()
        return flat

    def _accumulate_and_reduce(self, batch: Batch, window: TimestepWindow, flat: Tensor) -> None:
        """Fills `flat` with the sums over the ranks; raises on every rank where one of them failed."""
        failure = None
        try:
            self._accumulate(batch, window, flat[-_TAIL:])
        except FloatingPointError as error:
            # Raised below, once the other ranks have been told: they are waiting in the reduction.
            failure = self._not_finite(str(error), batch, window)
            flat.zero_()
            flat[-1] = 1.0
        if self._reduce is not None:
            self._reduce(flat)
        if failure is not None:
            raise failure
        if float(flat[-1]):
            raise FloatingPointError(f"step {self.steps}: another learner worker met a value that is not finite")

    def _accumulate(self, batch: Batch, window: TimestepWindow, figures: Tensor) -> None:
        """Forward and backward at every timestep of the window, in microbatches of pairs."""
        config = self.config
        pairs = load_pairs(batch, seed=self.seed)
        scale = 1.0 / config.pairs_per_step
        if config.timesteps.reduce == "mean":
            scale /= len(window.experts)
        for row, expert in enumerate(window.experts):
            for start in range(0, len(pairs), config.microbatch_pairs):
                columns = slice(start, start + config.microbatch_pairs)
                terms, drift = pair_loss(
                    self.policy,
                    pairs[columns],
                    timesteps=window.timesteps[row, columns],
                    sigmas=window.sigmas[row, columns],
                    expert=expert,
                    beta=config.beta,
                )
                (terms.loss.sum() * scale).backward()
                logged = (terms.loss, terms.accuracy, terms.margin, terms.chosen_reward, terms.rejected_reward, drift)
                figures[:-1] += torch.stack([figure.detach().sum() for figure in logged])

    def _not_finite(self, what: str, batch: Batch, window: TimestepWindow) -> FloatingPointError:
        ids = ", ".join(pair.id for pair in batch.pairs)
        timesteps = ", ".join(f"{t:g}" for t in window.timesteps.unique(sorted=True).tolist())
        return FloatingPointError(
            f"step {self.steps}: {what} (the step's pairs: {ids}; its timesteps: {timesteps}). The policy is as it "
            "was. Latents that are not finite are bad data; otherwise lower learner.learning_rate or learner.beta"
        )


def _cpu_copies(tensors: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {
        expert: {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
        for expert, named in tensors.items()
    }
