"""One optimizer step on the policy's LoRA adapter: a window of timesteps, accumulated, reduced, then AdamW.

A plain class. It knows of ranks only its `Mesh`, and of the loss only its `Objective`. It draws nothing from a stream:
the window is keyed by (seed, step), the noise by (seed, step, sample), so a restart repeats what was.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from buffers.portions import portions
from buffers.records import Batch, Snapshot
from buffers.tensors import decode, snapshot_of
from configs.sections import LearnerConfig
from learner.checkpoint import LearnerState
from learner.mesh import Mesh
from learner.noise_levels import LEVELS
from learner.objectives import Objective
from learner.samples import Sample, Shape, UnusablePairs, microbatches
from learner.timesteps import TimestepWindow, check_timesteps, draw_window
from policy.lora.adapters import REFERENCE, adapter_state, freeze_as_reference, load_adapter_state, policy_parameters
from policy.lora.optimizer import LoraOptimizer
from policy.policy import VideoPolicy


class Reduced:
    """What one reduction sums over the ranks, as views of one flat float32 tensor.

    `gradient`: `[size]`. `table`: `[LEVELS, columns]`, per noise level how many samples and the sums of their figures.
    The last two numbers are how many ranks failed and how many of them because of their pairs, so that no rank waits
    for another that has gone.
    """

    def __init__(self, size: int, columns: int, device: torch.device) -> None:
        self._flat = torch.zeros(size + LEVELS * columns + 2, dtype=torch.float32, device=device)
        self.gradient = self._flat[:size]
        self.table = self._flat[size:-2].view(LEVELS, columns)

    def sum_over(self, mesh: Mesh, failure: Exception | None) -> tuple[int, int]:
        """How many ranks failed, and how many of them because of their pairs. A rank that failed gives zeros."""
        if failure is not None:
            self._flat.zero_()
            self._flat[-2], self._flat[-1] = 1.0, float(isinstance(failure, UnusablePairs))
        mesh.reduce(self._flat)
        return int(self._flat[-2]), int(self._flat[-1])


class Learner:
    """Holds the policy, its optimizer and the number of steps taken.

    `policy` must have been loaded with a LoRA config; its adapter "reference" is the reference of the loss, or the base
    if there is none. `sampling_steps`: N, the steps that inference takes. Each step makes K reductions, one for each
    timestep of the window, however many microbatches a rank needs.
    Raises ValueError at once if the policy has no adapter, the window does not fit the inference grid, or the batch
    does not divide among the ranks.

    Example: Learner(policy, config.learner, Dpo(config.learner.beta), sampling_steps=40, seed=0).step(batch)
    """

    def __init__(
        self,
        policy: VideoPolicy,
        config: LearnerConfig,
        objective: Objective,
        *,
        sampling_steps: int,
        seed: int,
        mesh: Mesh | None = None,
    ) -> None:
        self.policy = policy
        self.seed = seed
        self.mesh = mesh or Mesh()
        self.steps = 0
        self._configure(config, objective, sampling_steps)

    def begin_stage(self, config: LearnerConfig, objective: Objective, *, sampling_steps: int) -> None:
        """The adapter as it is now becomes the reference, frozen, and the optimizer starts anew; the steps go on.

        Raises what the constructor raises; the reference and the optimizer are then as before.
        """
        self._configure(config, objective, sampling_steps)
        freeze_as_reference(self.policy.transformers)

    def _configure(self, config: LearnerConfig, objective: Objective, sampling_steps: int) -> None:
        policy, size = self.policy, self.mesh.data_size
        if config.pairs_per_step % size:
            raise ValueError(
                f"learner.pairs_per_step = {config.pairs_per_step} does not divide among {size} learner workers; "
                "make it a multiple of learner.num_workers"
            )
        check_timesteps(config.timesteps, policy.scheduler, sampling_steps, boundary_ratio=policy.boundary_ratio)
        parameters = dict(policy_parameters(policy.transformers))
        if not parameters:
            raise ValueError("the policy has no LoRA adapter to train; load it with lora=LoraConfig(...)")
        self.config = config
        self.objective = objective
        self.sampling_steps = sampling_steps
        self._figures = ("loss", *objective.figures)
        self._optimizer = LoraOptimizer(parameters, config)
        self._names = {
            expert: [name for name in parameters if name.startswith(f"{expert}.")] for expert in policy.transformers
        }
        for transformer in policy.transformers.values():
            if config.gradient_checkpointing:
                transformer.enable_gradient_checkpointing()
            else:
                transformer.disable_gradient_checkpointing()

    def step(self, batch: Batch) -> dict[str, Any]:
        """One AdamW step on this rank's share of the batch of step `self.steps`; returns what is logged.

        The means of "loss" and of the objective's figures are over window and global batch; `grad_norm` is taken
        before clipping; `step` counts this step. `levels`: for each noise level that was visited its
        `level` (0 to LEVELS - 1), how many `pairs`, and the means of the figures there. `window`: for each of the K
        timesteps its `timestep` (mean over this rank's samples), `expert`, the `grad_norm` of its term alone, its
        `level` (None if its samples lie further apart than a level is wide), and the means of the figures.
        `experts`: how many timesteps each got. `expert_switches`: how often an expert has been brought to the device.

        Raises UnusablePairs that names step, samples and timesteps if a latent or a loss is not finite, and likewise
        FloatingPointError if the gradient is not; ValueError if the batch is not the expected one. If one rank raises,
        whatever the error, every other rank raises, too: UnusablePairs or RuntimeError. The policy, the optimizer and
        the counters are then as before.
        """
        window = draw_window(
            self.config.timesteps,
            scheduler=self.policy.scheduler,
            steps=self.sampling_steps,
            seed=self.seed,
            step=self.steps,
            num_pairs=self.config.pairs_per_step,
            boundary_ratio=self.policy.boundary_ratio,
        ).share(rank=self.mesh.data_rank, world_size=self.mesh.data_size)
        gradients: dict[str, Tensor] = {}
        visited: list[dict[str, Any]] = []
        table = torch.zeros(LEVELS, 1 + len(self._figures))
        samples: Sequence[Sample] = ()
        try:
            for row in window.by_expert(self.steps):
                expert, timesteps = window.experts[row], window.timesteps[row]
                names = self._names[expert]
                reduced = Reduced(self._optimizer.size(names), table.shape[1], self.policy.device)
                failure: Exception | None = None
                try:
                    # The batch is read here, inside: a rank that fails must still come to the first reduction.
                    samples = samples or self._load(batch)
                    self._optimizer.attach(names, reduced.gradient)
                    self._accumulate(samples, batch.shapes, window, row, reduced.table)
                except Exception as error:  # any kind; raised once the other ranks know
                    failure = error
                failed, of_pairs = reduced.sum_over(self.mesh, failure)
                if failure is not None:
                    raise failure
                if failed > of_pairs:
                    raise RuntimeError(f"step {self.steps}: another learner worker failed; its own error says why")
                if failed:
                    raise UnusablePairs((), f"step {self.steps}: another learner worker has pairs that are not finite")
                row_table = reduced.table.cpu()
                table += row_table
                where = {"timestep": float(timesteps.mean()), "level": self._level_of(timesteps), "expert": expert}
                norm = {"grad_norm": float(reduced.gradient.norm())}
                visited.append({**where, **norm, **self._means(row_table.sum(0))})
                held = gradients.get(expert)
                gradients[expert] = reduced.gradient if held is None else held.add_(reduced.gradient)
            self._optimizer.clear()  # an expert that is not in the window gets no gradient
            for expert, gradient in gradients.items():
                self._optimizer.attach(self._names[expert], gradient)
            grad_norm = self._optimizer.step()
        except FloatingPointError as error:
            raise self._explained(error, samples, window) from error
        finally:
            self._optimizer.clear()
        self.steps += 1
        levels = [{"level": n, "pairs": int(sums[0]), **self._means(sums)} for n, sums in enumerate(table) if sums[0]]
        return {
            "step": float(self.steps),
            **self._means(table.sum(0)),
            "grad_norm": grad_norm,
            "levels": levels,
            "window": visited,
            "experts": {expert: window.experts.count(expert) for expert in self._names},
            **({"expert_switches": self.policy.idle.switches} if self.policy.idle else {}),
        }

    def snapshot(self, version: int) -> Snapshot:
        """The policy's adapter as it is now, under that version."""
        return snapshot_of(version, adapter_state(self.policy.transformers))

    def reference_snapshot(self, version: int) -> Snapshot:
        """The reference's adapter under that version; zeros, which change nothing, if it is the base."""
        transformers = self.policy.transformers
        held = adapter_state(transformers, REFERENCE)
        return snapshot_of(version, held or {n: torch.zeros_like(t) for n, t in adapter_state(transformers).items()})

    def state(self, run: dict[str, Any] | None = None, *, published: Snapshot | None = None) -> LearnerState:
        """A copy on the CPU of everything that a restart needs; for `learner.checkpoint`.

        `run`: what the run around the learner needs to go on; plain JSON, kept in the same commit. `published`: the
        adapter that generators hold, if it is another one than that of now.
        """
        held = published.adapter if published else {}
        transformers = self.policy.transformers
        return LearnerState(
            seed=self.seed,
            steps=self.steps,
            adapter={name: tensor.cpu() for name, tensor in adapter_state(transformers).items()},
            reference={name: tensor.cpu() for name, tensor in adapter_state(transformers, REFERENCE).items()},
            optimizer=self._optimizer.state(),
            published={name: decode(tensor) for name, tensor in held.items()},
            run=run or {},
        )

    def restore(self, state: LearnerState) -> None:
        """Goes on from `state` as if never stopped.

        Raises ValueError if the state is another run's: another seed (its draws would differ), or an adapter that does
        not fit.
        """
        if state.seed != self.seed:
            raise ValueError(f"the checkpoint was made with seed {state.seed}, this run has seed {self.seed}")
        transformers = self.policy.transformers
        if state.reference:
            kept = adapter_state(transformers)
            load_adapter_state(transformers, state.reference)
            freeze_as_reference(transformers)
            load_adapter_state(transformers, kept)
        elif adapter_state(transformers, REFERENCE):
            raise ValueError("the checkpoint's reference is the base, this learner's is an adapter")
        load_adapter_state(transformers, state.adapter)
        self._optimizer.load(state.optimizer)
        self.steps = state.steps

    def _load(self, batch: Batch) -> Sequence[Sample]:
        share = self.config.pairs_per_step // self.mesh.data_size
        if batch.step != self.steps:
            raise ValueError(f"the batch is of step {batch.step}, the learner is at step {self.steps}")
        samples = self.objective.load(batch, seed=self.seed)
        if len(samples) != share:
            raise ValueError(
                f"step {batch.step}: the batch has {len(samples)} pairs for rank {self.mesh.data_rank} of "
                f"{self.mesh.data_size}; learner.pairs_per_step = {self.config.pairs_per_step} makes it {share}"
            )
        return samples

    def _accumulate(
        self, samples: Sequence[Sample], shapes: Sequence[Shape], window: TimestepWindow, row: int, table: Tensor
    ) -> None:
        """Forward and backward at one timestep of the window, in microbatches of this rank's samples.

        `shapes`: of the samples of all ranks.
        """
        config, expert = self.config, window.experts[row]
        scale = 1.0 / config.pairs_per_step / (len(window.experts) if config.timesteps.reduce == "mean" else 1)
        of_ranks = [*portions(shapes, config.pairs_per_step // self.mesh.data_size)]
        own = [sample.shape for sample in samples]
        for columns in microbatches(own, config.microbatch_pairs, of_ranks=of_ranks):
            some, timesteps = [samples[column] for column in columns], window.timesteps[row, columns]
            sigmas = window.sigmas[row, columns]
            losses, figures = self.objective(self.policy, some, timesteps=timesteps, sigmas=sigmas, expert=expert)
            if not losses.isfinite().all():
                failed = [place for place, loss in enumerate(losses.tolist()) if not math.isfinite(loss)]
                named = ", ".join(f"{some[place].id} (timestep {float(timesteps[place]):g})" for place in failed)
                raise UnusablePairs([some[place].id for place in failed], f"the loss is not finite for pair {named}")
            (losses.sum() * scale).backward()
            logged = (losses.detach(), *(figures[name].detach() for name in self.objective.figures))
            rows = torch.stack([torch.ones_like(logged[0]), *logged], dim=1)
            table.index_add_(0, self._levels(timesteps).to(table.device), rows)

    def _means(self, sums: Tensor) -> dict[str, float]:
        """`[1 + figures]`: how many samples, and the sums of their figures."""
        return dict(zip(self._figures, (sums[1:] / sums[0]).tolist(), strict=True))

    def _levels(self, timesteps: Tensor) -> Tensor:
        return (timesteps / self.policy.facts.num_train_timesteps * LEVELS).long().clamp(0, LEVELS - 1)

    def _level_of(self, timesteps: Tensor) -> int | None:
        if float(timesteps.max() - timesteps.min()) > self.policy.facts.num_train_timesteps / LEVELS:
            return None
        return int(self._levels(timesteps.mean()))

    def _explained(
        self, error: FloatingPointError, samples: Sequence[Sample], window: TimestepWindow
    ) -> FloatingPointError:
        ids = ", ".join(sample.id for sample in samples)
        timesteps = ", ".join(f"{t:g}" for t in window.timesteps.unique(sorted=True).tolist())
        message = (
            f"step {self.steps}: {error} (the step's pairs: {ids or 'not read'}; its timesteps: {timesteps}). The "
            "policy is as it was. Latents that are not finite are bad data; otherwise lower learner.learning_rate or "
            "learner.beta"
        )
        return UnusablePairs(error.ids, message) if isinstance(error, UnusablePairs) else FloatingPointError(message)
