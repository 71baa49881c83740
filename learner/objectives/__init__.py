"""Objectives: a loss is a file here. `Learner` windows, accumulates, reduces and steps, and knows none of them."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from buffers.records import Batch
from learner.samples import Sample
from policy.policy import VideoPolicy


class Objective(Protocol):
    """From a batch and timesteps to per-sample losses and named figures. What a sample is, the objective decides.

    `figures`: names of the per-sample figures that a call returns. `guarded`: those of them, and "loss", that have to
    stay in the bands of the config (`learner/guards.py`).
    """

    @property
    def figures(self) -> tuple[str, ...]: ...

    @property
    def guarded(self) -> tuple[str, ...]: ...

    def load(self, batch: Batch, *, seed: int) -> Sequence[Sample]:
        """This rank's samples, on the CPU. Random draws are keyed by `seed`, step and sample."""
        ...

    def __call__(
        self, policy: VideoPolicy, samples: Any, /, *, timesteps: Tensor, sigmas: Tensor, expert: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses `[samples]` with their gradient, and every figure `[samples]`; nothing is averaged over samples.

        `samples`: a list of what `load` returned, of one shape. `timesteps`, `sigmas`: `[samples]`, all of `expert`.
        """
        ...
