"""Direct-Align's levels: 1,000 sigmas between two steps of the sampler, and the two jumps on them.

Source: the authors' published code of SRPO (`SRPO_train`), on the bundle's own schedule in place of FLUX's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from configs.sections import TimestepsConfig
from policy.flow import inference_grid

COUNT = 1000
EDGE = 5
"""Levels at either end at which no jump is made."""
MAX_SIGMA = 0.99
"""Above it 1 - b is so small that x_0 is recovered from rounding errors."""


@dataclass(frozen=True)
class Jump:
    """One step of the model from sigma `a` to sigma `b`. `place`: of its level, 0 to 1, 1 is the noisiest."""

    a: float
    b: float
    place: float


class Levels:
    """The levels of a bundle: level m is the m-th from the cleanest one.

    `allowed`: the levels from which both jumps stay below `MAX_SIGMA` and on one side of the expert boundary;
    `left_out`: how many others there are. Raises ValueError if none is allowed.
    """

    def __init__(
        self, config: TimestepsConfig, scheduler: Any, steps: int, *, boundary_ratio: float | None = None
    ) -> None:
        grid = [*inference_grid(scheduler, steps).sigmas.tolist(), 0.0]
        ends = [float(np.interp(share * steps, range(steps + 1), grid)) for share in config.levels]
        self._sigmas = np.linspace(ends[0], ends[1], COUNT)
        self._reach = round(config.jump * COUNT)
        self._boundary = 0.0 if boundary_ratio is None else boundary_ratio
        possible = range(EDGE, COUNT - EDGE + 1)
        self.allowed = [m for m in possible if self._is_allowed(m)]
        self.left_out = len(possible) - len(self.allowed)
        if not self.allowed:
            raise ValueError(
                f"learner.timesteps.levels = {config.levels} is sigma {ends[0]:.4g} to {ends[1]:.4g}: no jump of "
                f"{config.jump:g} of it stays at or below {MAX_SIGMA} and on one side of the expert boundary "
                f"({self._boundary:g}); use later levels or a shorter learner.timesteps.jump"
            )

    def sigma(self, m: int) -> float:
        """Of level m, 1 to COUNT."""
        return float(self._sigmas[COUNT - m])

    def nearest(self, sigma: float) -> int:
        """The level of a sigma."""
        return COUNT - int(np.abs(self._sigmas - sigma).argmin())

    def denoising(self, m: int) -> Jump:
        """To level m, from one that is noisier."""
        return Jump(self.sigma(min(m + self._length(m), COUNT)), self.sigma(m), m / (COUNT - 1))

    def inversion(self, m: int) -> Jump:
        """From a level that is cleaner than m, to a noisier one: up to m again."""
        start = max(m - self._length(m), 1)
        return Jump(self.sigma(start), self.sigma(min(start + self._length(m), COUNT)), start / (COUNT - 1))

    def draw(self, generator: torch.Generator) -> float:
        """The sigma of one of the allowed levels, all alike."""
        return self.sigma(self.allowed[int(torch.randint(len(self.allowed), (), generator=generator))])

    def _length(self, m: int) -> int:
        return min(COUNT - m, self._reach, m)

    def _is_allowed(self, m: int) -> bool:
        jumps = (self.denoising(m), self.inversion(m))
        sides = {sigma >= self._boundary for jump in jumps for sigma in (jump.a, jump.b)}
        return len(sides) == 1 and all(0 < jump.b <= MAX_SIGMA for jump in jumps)
