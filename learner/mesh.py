"""Where a learner stands among its group's ranks, and how the group's ranks reach each other."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _alone(flat: Tensor) -> None:
    """The sum over one rank is what that rank has."""


@dataclass(frozen=True)
class Mesh:
    """The ranks of one learner group; the default is a learner alone.

    `data_rank`, `data_size`: ranks that differ in `data_rank` learn from different samples of the same batch.
    `reduce`: sums a flat float32 tensor in place over the data-parallel ranks. `agree`: whether every rank says yes.
    Both are collectives: every rank calls them equally often and in the same order, or the others wait for ever.

    Raises ValueError if there are several ranks and no `reduce`.
    """

    data_rank: int = 0
    data_size: int = 1
    reduce: Callable[[Tensor], None] = _alone
    agree: Callable[[bool], bool] = bool

    def __post_init__(self) -> None:
        if self.data_size > 1 and self.reduce is _alone:
            raise ValueError(f"{self.data_size} learner workers need a `reduce` that sums a tensor over them")
