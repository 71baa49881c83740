"""Where one process of the learner's group stands: its data-parallel rank, and how the ranks add and agree."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _alone(flat: Tensor) -> None:
    """One rank: its sum is its own."""


@dataclass(frozen=True)
class Mesh:
    """rank, size: data-parallel; rank r has the r-th of `size` equal slices of every batch.

    reduce: sums a flat float32 tensor over the data-parallel ranks, in place. agree: whether all ranks say yes. Every
    rank calls both equally often. Raises ValueError if there are several ranks and no `reduce`.

    Example: Mesh() is one process alone.
    """

    rank: int = 0
    size: int = 1
    reduce: Callable[[Tensor], None] = _alone
    agree: Callable[[bool], bool] = bool

    def __post_init__(self) -> None:
        if self.size > 1 and self.reduce is _alone:
            raise ValueError(f"{self.size} learner workers need a `reduce` that sums a tensor over them")
