"""Which timesteps an optimizer step is taken at: Diffusion-APO's grid, offsets and sliding window.

Paper section 3.2 (Eq. 5) and 4.1; docs/decisions/0001-timesteps.md decides what is ambiguous there. Pure
functions: a window is a function of (config, scheduler, seed, step), the same on every rank, which takes its columns.
"""

import hashlib
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from configs.sections import TimestepsConfig
from learner.levels import Levels
from policy.flow import inference_grid, shift_sigma, unshifted_sigmas

HIGH_NOISE, LOW_NOISE = "transformer", "transformer_2"
"""diffusers' names of the two experts; a bundle without a boundary has the first alone."""


@dataclass(frozen=True)
class TimestepWindow:
    """K timesteps for each of B pairs; row k is one forward and backward of every pair.

    `timesteps`: `[K, B]` float32, what the transformer is told. `sigmas`: `[K, B]` float32, the share of noise in its
    input. `experts`: for each row the one transformer that all its pairs use. `shift`: Eq. 5's s, None if it was not
    drawn.
    """

    timesteps: Tensor
    sigmas: Tensor
    experts: tuple[str, ...]
    shift: float | None

    def share(self, *, rank: int, world_size: int) -> "TimestepWindow":
        """This rank's columns: the `rank`-th of `world_size` equal runs of neighbours. B must be divisible."""
        count = self.timesteps.shape[1] // world_size
        columns = slice(rank * count, (rank + 1) * count)
        return TimestepWindow(self.timesteps[:, columns], self.sigmas[:, columns], self.experts, self.shift)

    def by_expert(self, step: int) -> list[int]:
        """Rows in an order in which each expert's are neighbours, and the expert that ends a step begins the next one.

        So at most one switch of experts is made in a step.
        """
        return sorted(range(len(self.experts)), key=lambda row: (self.experts[row] == HIGH_NOISE) == bool(step % 2))


def keyed_generator(*key: str | int) -> torch.Generator:
    """A CPU generator that is a function of its key alone: the same on every rank, machine and restart."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw_window(
    config: TimestepsConfig,
    *,
    scheduler: Any,
    steps: int,
    seed: int,
    step: int,
    num_pairs: int,
    boundary_ratio: float | None = None,
) -> TimestepWindow:
    """The window of optimizer step `step` for the global batch of `num_pairs`.

    `scheduler`: the bundle's own (it is copied, never changed); `steps`: N, how many steps inference takes.
    Raises ValueError if the grid has too few timesteps for the window.
    """
    generator = keyed_generator("window", seed, step)
    horizon = int(scheduler.config.num_train_timesteps)
    boundary = (boundary_ratio or 0.0) * horizon
    if config.kind == "levels":
        sigma = Levels(config, scheduler, steps, boundary_ratio=boundary_ratio).draw(generator)
        sigmas = torch.full((1, num_pairs), sigma)
        return TimestepWindow(sigmas * horizon, sigmas, (_expert(sigma * horizon, boundary),), None)
    if config.kind != "apo":
        return _independent(config, generator, horizon=horizon, boundary=boundary, num_pairs=num_pairs)
    shift = None
    if config.random_shift:
        shift = config.shifts[int(torch.randint(len(config.shifts), (), generator=generator))]
    grid = timestep_grid(scheduler, steps=steps, shift=shift, boundary_ratio=boundary_ratio)
    rows = _choose_rows(config, grid, step, generator)
    timesteps = grid.timesteps[rows, None].expand(-1, num_pairs)
    sigmas = grid.sigmas[rows, None].expand(-1, num_pairs)
    if config.random_offset:
        moved = timesteps + math.sqrt(config.offset_variance) * torch.randn(timesteps.shape, generator=generator)
        if config.snap == "grid":
            nearest = _nearest_on_same_side(moved, rows, grid)
            timesteps, sigmas = grid.timesteps[nearest], grid.sigmas[nearest]
        else:
            timesteps = _round_on_same_side(moved, rows, grid)
            sigmas = timesteps / grid.horizon
    experts = tuple(_expert(float(grid.timesteps[row]), grid.boundary) for row in rows)
    return TimestepWindow(timesteps.contiguous(), sigmas.contiguous(), experts, shift)


@dataclass(frozen=True)
class TimestepGrid:
    """N timesteps `[N]` and their sigmas `[N]`, noisiest first, float32, of a flow shift (None: the scheduler's own).

    `horizon`: T. `boundary`: the timestep at and above which the high-noise expert works, 0 if there is one expert.
    """

    timesteps: Tensor
    sigmas: Tensor
    shift: float | None
    horizon: int
    boundary: float

    @property
    def is_high_noise(self) -> Tensor:
        """Which timesteps the high-noise expert has; bool `[N]`."""
        return self.timesteps >= self.boundary


def timestep_grid(scheduler: Any, *, steps: int, shift: float | None, boundary_ratio: float | None) -> TimestepGrid:
    """The sampler's own grid of N steps, or that of Eq. 5 if a shift is given.

    Without a shift a timestep and its sigma are exactly the scheduler's pair, which for UniPC (truncated to integers)
    is not quite sigma = t / T.
    """
    horizon = int(scheduler.config.num_train_timesteps)
    if shift is None:
        grid = inference_grid(scheduler, steps)
        timesteps, sigmas = grid.timesteps.float(), grid.sigmas.float()
    else:
        timesteps = (shift_sigma(unshifted_sigmas(scheduler, steps).double(), shift) * horizon).round().float()
        sigmas = timesteps / horizon
    return TimestepGrid(timesteps, sigmas, shift, horizon, (boundary_ratio or 0.0) * horizon)


def check_timesteps(
    config: TimestepsConfig, scheduler: Any, steps: int, *, boundary_ratio: float | None = None
) -> None:
    """Before any work: every shift that can be drawn must give a full window, and offsets that move something.

    Raises ValueError that names N, s and the counts, the list of shifts that is empty, or the offset variance with
    which most timesteps of the window would be clipped at the end of their range.
    """
    if config.kind == "levels":
        Levels(config, scheduler, steps, boundary_ratio=boundary_ratio)
    if config.kind != "apo":
        return
    if config.random_shift and not config.shifts:
        raise ValueError("learner.timesteps.shifts is empty; give at least one shift, or set random_shift to false")
    for shift in config.shifts if config.random_shift else [None]:
        grid = timestep_grid(scheduler, steps=steps, shift=shift, boundary_ratio=boundary_ratio)
        if config.window == "sliding":
            _split(config, grid)
        if config.random_offset:
            _check_offsets(config, grid)


def _check_offsets(config: TimestepsConfig, grid: TimestepGrid) -> None:
    """Somewhere on the grid an offset must be likelier to stay in its expert's range than to be clipped at an end."""
    deviation = math.sqrt(config.offset_variance)
    edge = math.ceil(grid.boundary)
    for first, last in [(edge, grid.horizon), (0, edge - 1)] if edge else [(0, grid.horizon)]:
        inside = [t for t in grid.timesteps.tolist() if first <= t <= last]
        if deviation and inside and all(_clipped(t, deviation, first, last) > 0.5 for t in inside):
            raise ValueError(
                f"learner.timesteps.offset_variance = {config.offset_variance:g} (deviation {deviation:.3g} timesteps) "
                f"would clip most offsets of every grid timestep between timesteps {first} and {last}; the paper uses 5"
            )


def _clipped(timestep: float, deviation: float, first: int, last: int) -> float:
    """Share of offsets that leave [first, last]."""
    offset = NormalDist(timestep, deviation)
    return offset.cdf(first - 0.5) + 1 - offset.cdf(last + 0.5)


def _split(config: TimestepsConfig, grid: TimestepGrid) -> tuple[Tensor, Tensor]:
    """Indices of the grid's high and low timesteps, each in descending order of timestep."""
    threshold = config.high_from * grid.horizon
    is_high = grid.timesteps >= threshold
    high, low = is_high.nonzero()[:, 0], (~is_high).nonzero()[:, 0]
    if len(high) < config.high or len(low) < config.low:
        name = "the scheduler's own shift" if grid.shift is None else f"shift {grid.shift:g}"
        raise ValueError(
            f"sampling.steps = {len(is_high)} with {name} gives {len(high)} timesteps at t >= {threshold:g} and "
            f"{len(low)} below; learner.timesteps needs {config.high} high and {config.low} low: raise sampling.steps, "
            "or lower learner.timesteps.high or low"
        )
    return high, low


def _choose_rows(config: TimestepsConfig, grid: TimestepGrid, step: int, generator: torch.Generator) -> Tensor:
    """Places `[K]` of the window in the grid: the high ones slide by `stride` and wrap, the low ones are drawn."""
    if config.window == "isolated":
        return torch.randint(len(grid.timesteps), (1,), generator=generator)
    high, low = _split(config, grid)
    sliding = (step * config.stride + torch.arange(config.high)) % len(high)
    drawn = torch.randperm(len(low), generator=generator)[: config.low]
    return torch.cat([high[sliding], low[drawn]])


def _round_on_same_side(moved: Tensor, rows: Tensor, grid: TimestepGrid) -> Tensor:
    """The nearest integer timestep in [0, T] that lies on its own side of the expert boundary; `[K, B]`."""
    rounded, first_high = moved.round().clamp(0, grid.horizon), math.ceil(grid.boundary)
    is_high_noise = grid.is_high_noise[rows][:, None]
    return torch.where(is_high_noise, rounded.clamp(min=first_high), rounded.clamp(max=first_high - 1))


def _nearest_on_same_side(moved: Tensor, rows: Tensor, grid: TimestepGrid) -> Tensor:
    """Indices `[K, B]` of the grid timesteps nearest to `moved` among those of the same expert."""
    distance = (moved[..., None] - grid.timesteps).abs()
    other_side = grid.is_high_noise[rows][:, None] != grid.is_high_noise
    return distance.masked_fill(other_side[:, None, :], math.inf).argmin(-1)


def _independent(
    config: TimestepsConfig, generator: torch.Generator, *, horizon: int, boundary: float, num_pairs: int
) -> TimestepWindow:
    """Diffusion-DPO's baselines: one integer timestep per pair, of 1 to T - 1, sigma = t / T, no shift.

    With two experts one draw says which of them has the step (in proportion to its share of the distribution) and the
    pairs draw within it: over the steps every pair's timestep is still distributed as asked for.
    """
    first, last = 1, horizon - 1
    expert = HIGH_NOISE
    if boundary:
        expert = _expert(float(_draw(config, generator, first, last, horizon=horizon, count=1)), boundary)
        first_high = math.ceil(boundary)
        first, last = (max(first, first_high), last) if expert == HIGH_NOISE else (first, min(last, first_high - 1))
    timesteps = _draw(config, generator, first, last, horizon=horizon, count=num_pairs)[None]
    return TimestepWindow(timesteps, timesteps / horizon, (expert,), None)


def _draw(
    config: TimestepsConfig, generator: torch.Generator, first: int, last: int, *, horizon: int, count: int
) -> Tensor:
    """`[count]` integers of `first` to `last`: all alike, or logit-normal.

    Logit-normal is the nearest to T / (1 + exp(-x)), x normal, cut off at both ends. Drawn by the inverse of the
    distribution function, so that a narrow range takes no longer than a wide one.
    """
    if config.kind == "uniform":
        return torch.randint(first, last + 1, (count,), generator=generator).float()
    edges = torch.tensor([first - 0.5, last + 0.5], dtype=torch.float64) / horizon
    low, high = torch.special.ndtr((edges.logit() - config.logit_mean) / config.logit_deviation)
    share = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    normal = config.logit_mean + config.logit_deviation * torch.special.ndtri(share)
    return (horizon * normal.sigmoid()).round().clamp(first, last).float()


def _expert(timestep: float, boundary: float) -> str:
    """diffusers' own rule, as inference applies it."""
    return HIGH_NOISE if timestep >= boundary else LOW_NOISE
