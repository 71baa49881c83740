"""One optimizer step of Diffusion-APO on the policy's LoRA adapter: a window of timesteps, accumulated, then AdamW.

A plain class: it knows of ranks only that its gradient is summed by a callable that it is given. It draws nothing from
a stream: the window is keyed by (seed, step), the noise by (seed, step, pair), so a restart repeats what was.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor

from buffers.records import Batch, Snapshot
from buffers.tensors import checksum, encode
from configs.sections import LearnerConfig
from learner.checkpoint import LearnerState
from learner.mesh import Mesh
from learner.noise_levels import LEVELS
from learner.samples import PairTensors, load_pairs, microbatches, pair_loss
from learner.timesteps import TimestepWindow, check_timesteps, draw_window
from policy.lora.adapters import (
    adapter_state,
    freeze_as_reference,
    load_adapter_state,
    policy_parameters,
    reference_state,
)
from policy.policy import VideoPolicy

FIGURES = ("loss", "implicit_accuracy", "margin", "chosen_reward", "rejected_reward", "drift")
"""Means over window and global batch."""

_OTHER_FAILURE = 1e6
"""A rank adds this to the count of failed ranks if it failed otherwise than by a value that is not finite."""

_COLUMNS = 1 + len(FIGURES)
_TAIL = LEVELS * _COLUMNS + 1
"""The reduced tensor ends with a table `[LEVELS, _COLUMNS]`, how many pairs and the sums of their figures, and with the
number of ranks that failed."""


class Learner:
    """Holds the policy, its optimizer and the number of steps taken.

    `policy` must have been loaded with a LoRA config. `sampling_steps`: N, the steps that inference takes. Every
    rank of the mesh reduces once per timestep of the window, whatever its number of microbatches.
    Raises ValueError at once where the policy has no adapter, the window does not fit the inference grid, or the batch
    does not divide among the ranks.
    """

    def __init__(
        self,
        policy: VideoPolicy,
        config: LearnerConfig,
        *,
        sampling_steps: int,
        seed: int,
        mesh: Mesh | None = None,
    ) -> None:
        mesh = mesh or Mesh()
        if config.pairs_per_step % mesh.size:
            raise ValueError(
                f"learner.pairs_per_step = {config.pairs_per_step} does not divide among {mesh.size} learner workers; "
                "make it a multiple of learner.num_workers"
            )
        check_timesteps(config.timesteps, policy.scheduler, sampling_steps, boundary_ratio=policy.boundary_ratio)
        self.policy = policy
        self.config = config
        self.sampling_steps = sampling_steps
        self.seed = seed
        self.mesh = mesh
        self.steps = 0
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

    def step(self, batch: Batch) -> dict[str, Any]:
        """One AdamW step on this rank's share of the batch of step `self.steps`; returns what is logged.

        Figures are of the global batch, except staleness and seconds, which are this rank's; `grad_norm` is taken
        before clipping; `step` and `version` count this step. `levels`: for each noise level that was visited its
        `level` (0 to LEVELS - 1), how many `pairs`, and the means of FIGURES there. `window`: for each of the K
        timesteps its `timestep` (mean over this rank's pairs), `expert`, the `grad_norm` of its term alone, and its
        `level` (None where its pairs lie further apart than a level is wide).

        Raises FloatingPointError, on every rank, that names step, pairs and timesteps where a latent, a loss or the
        gradient is not finite, and ValueError where the batch is not the expected one; the policy, the optimizer and
        the counters are then as before.
        """
        started = time.perf_counter()
        window = draw_window(
            self.config.timesteps,
            scheduler=self.policy.scheduler,
            steps=self.sampling_steps,
            seed=self.seed,
            step=self.steps,
            num_pairs=self.config.pairs_per_step,
            boundary_ratio=self.policy.boundary_ratio,
        ).share(rank=self.mesh.rank, world_size=self.mesh.size)
        gradients: dict[str, Tensor] = {}
        norms: list[float] = []
        table = torch.zeros(LEVELS, _COLUMNS)
        try:
            pairs = self._load(batch, window)
            for row, expert in enumerate(window.experts):
                flat = self._attach_gradients(expert)
                self._accumulate_and_reduce(pairs, batch, window, row, flat)
                gradient = flat[:-_TAIL]
                norms.append(float(gradient.norm()))
                table += flat[-_TAIL:-1].view(LEVELS, _COLUMNS).cpu()
                gradients[expert] = gradients[expert].add_(gradient) if expert in gradients else gradient
            grad_norm = math.hypot(*(float(gradient.norm()) for gradient in gradients.values()))
            if not math.isfinite(grad_norm):
                raise self._not_finite("the gradient is not finite", batch, window)
            # An expert that is not in the window has no gradient: AdamW would move it by momentum alone.
            self._optimizer.zero_grad(set_to_none=True)
            for expert, gradient in gradients.items():
                self._attach(expert, gradient.mul_(min(1.0, self.config.max_grad_norm / (grad_norm + 1e-6))))
            self._optimizer.step()
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return {
            "step": float(self.steps),
            "version": float(self.version),
            **_means(table.sum(0)),
            "grad_norm": grad_norm,
            "staleness_mean": sum(batch.staleness) / len(batch.staleness),
            "staleness_max": float(max(batch.staleness)),
            "step_s": time.perf_counter() - started,
            "levels": [
                {"level": level, "pairs": int(sums[0]), **_means(sums)} for level, sums in enumerate(table) if sums[0]
            ],
            "window": [
                {
                    "timestep": float(timesteps.mean()),
                    "level": self._level_of(timesteps),
                    "expert": expert,
                    "grad_norm": norm,
                }
                for timesteps, expert, norm in zip(window.timesteps, window.experts, norms, strict=True)
            ],
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
            reference=_cpu_copies(reference_state(self.policy.transformers)),
        )

    def begin_stage(self) -> None:
        """From here on the reference is a frozen copy of the adapter as it is now, and the optimizer is a new one.

        `steps` goes on: draws are keyed by the step of the run.
        """
        freeze_as_reference(self.policy.transformers)
        self._optimizer.state.clear()

    def restore(self, state: LearnerState) -> None:
        """Goes on from `state` as if never stopped.

        Raises ValueError if the state is another run's: another seed (its draws would differ), or an adapter that does
        not fit.
        """
        if state.seed != self.seed:
            raise ValueError(f"the checkpoint was made with seed {state.seed}, this run has seed {self.seed}")
        for expert, steps in state.adam_steps.items():
            strange = sorted(steps.keys() - self._parameters.get(expert, {}).keys())
            if strange:
                raise ValueError(f"the checkpoint's optimizer knows {strange[0]} of {expert}, this policy does not")
        if state.reference:  # the policy's place is only borrowed: the adapter itself is loaded next
            load_adapter_state(self.policy.transformers, state.reference)
            freeze_as_reference(self.policy.transformers)
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
        share = self.config.pairs_per_step // self.mesh.size
        if batch.step != self.steps:
            raise ValueError(f"the batch is of step {batch.step}, the learner is at step {self.steps}")
        if len(batch.pairs) != share:
            raise ValueError(
                f"step {batch.step}: the batch has {len(batch.pairs)} pairs for rank {self.mesh.rank} of "
                f"{self.mesh.size}; learner.pairs_per_step = {self.config.pairs_per_step} makes it {share}"
            )

    def _load(self, batch: Batch, window: TimestepWindow) -> list[PairTensors] | Exception:
        """The pairs, or why there are none: the other ranks are told in the first reduction, where they wait."""
        try:
            self._check_batch(batch)
            return load_pairs(batch, seed=self.seed)
        except FloatingPointError as error:
            return self._not_finite(str(error), batch, window)
        except Exception as error:
            return error

    def _attach_gradients(self, expert: str) -> Tensor:
        """Flat float32 zeros: every gradient of the expert is a view of it, and it ends with `_TAIL` figures.

        So backward adds straight into what is reduced.
        """
        size = sum(parameter.numel() for parameter in self._parameters[expert].values())
        flat = torch.zeros(size + _TAIL, dtype=torch.float32, device=self.policy.device)
        self._attach(expert, flat)
        return flat

    def _attach(self, expert: str, flat: Tensor) -> None:
        offset = 0
        for parameter in self._parameters[expert].values():
            parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()

    def _accumulate_and_reduce(
        self,
        pairs: list[PairTensors] | Exception,
        batch: Batch,
        window: TimestepWindow,
        row: int,
        flat: Tensor,
    ) -> None:
        """Fills `flat` with the sums over the ranks at one timestep; if one rank failed, raises on every rank.

        A rank that failed, however it failed, still reduces: the others wait for it there.
        """
        failure = pairs if isinstance(pairs, Exception) else None
        try:
            if not isinstance(pairs, Exception):
                self._accumulate(pairs, window, row, flat[-_TAIL:-1].view(LEVELS, _COLUMNS))
        except FloatingPointError as error:
            failure = self._not_finite(str(error), batch, window)
        except Exception as error:
            failure = error
        if failure is not None:
            flat.zero_()
            flat[-1] = 1.0 if isinstance(failure, FloatingPointError) else _OTHER_FAILURE
        self.mesh.reduce(flat)
        if failure is not None:
            raise failure
        if float(flat[-1]) >= _OTHER_FAILURE:
            raise RuntimeError(f"step {self.steps}: another learner worker failed; its own error says why")
        if float(flat[-1]):
            raise FloatingPointError(f"step {self.steps}: another learner worker met a value that is not finite")

    def _accumulate(self, pairs: list[PairTensors], window: TimestepWindow, row: int, table: Tensor) -> None:
        """Forward and backward at one timestep of the window, in microbatches of pairs."""
        config = self.config
        scale = 1.0 / config.pairs_per_step
        if config.timesteps.reduce == "mean":
            scale /= len(window.experts)
        for columns in microbatches(pairs, config.microbatch_pairs):
            timesteps = window.timesteps[row, columns]
            terms, drift = pair_loss(
                self.policy,
                [pairs[column] for column in columns],
                timesteps=timesteps,
                sigmas=window.sigmas[row, columns],
                expert=window.experts[row],
                beta=config.beta,
            )
            (terms.loss.sum() * scale).backward()
            logged = (terms.loss, terms.accuracy, terms.margin, terms.chosen_reward, terms.rejected_reward, drift)
            figures = torch.stack([torch.ones_like(drift), *(figure.detach() for figure in logged)], dim=1)
            table.index_add_(0, self._levels(timesteps).to(table.device), figures)

    def _levels(self, timesteps: Tensor) -> Tensor:
        share = timesteps / self.policy.facts.num_train_timesteps
        return (share * LEVELS).long().clamp(0, LEVELS - 1)

    def _level_of(self, timesteps: Tensor) -> int | None:
        if float(timesteps.max() - timesteps.min()) > self.policy.facts.num_train_timesteps / LEVELS:
            return None
        return int(self._levels(timesteps.mean()))

    def _not_finite(self, what: str, batch: Batch, window: TimestepWindow) -> FloatingPointError:
        ids = ", ".join(pair.id for pair in batch.pairs)
        timesteps = ", ".join(f"{t:g}" for t in window.timesteps.unique(sorted=True).tolist())
        return FloatingPointError(
            f"step {self.steps}: {what} (the step's pairs: {ids}; its timesteps: {timesteps}). The policy is as it "
            "was. Latents that are not finite are bad data; otherwise lower learner.learning_rate or learner.beta"
        )


def _means(sums: Tensor) -> dict[str, float]:
    """`[1 + figures]`: how many pairs, and the sums of their figures."""
    return dict(zip(FIGURES, (sums[1:] / sums[0]).tolist(), strict=True))


def _cpu_copies(tensors: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {
        expert: {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
        for expert, named in tensors.items()
    }
