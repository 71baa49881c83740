"""What a condition is to the model, opaque to every other room: a new family changes this file and `policy.py`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor


class Described(Protocol):
    """A condition as its user wrote it; `buffers.records.Condition` is one."""

    @property
    def prompt(self) -> str: ...


@dataclass(frozen=True)
class Conditioning:
    """A batch of conditions as the transformer takes them, one row per video.

    `prompt_embeds`: `[batch, tokens, dim]`.
    """

    prompt_embeds: Tensor

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def row(self, index: int) -> dict[str, Tensor]:
        """One condition's tensors by name, without the batch axis: what is stored of it."""
        return {field.name: getattr(self, field.name)[index] for field in fields(self)}

    @classmethod
    def of_row(cls, row: Mapping[str, Tensor]) -> "Conditioning":
        """A batch of one, from what `row` gave."""
        return cls(**{name: tensor[None] for name, tensor in row.items()})

    @classmethod
    def joined(cls, parts: Iterable["Conditioning"]) -> "Conditioning":
        """The rows of all parts, one after the other."""
        rows = list(parts)
        return cls(*(torch.cat([getattr(part, field.name) for part in rows]) for field in fields(cls)))

    def repeated(self, times: int | Tensor) -> "Conditioning":
        """Every row `times` times, neighbours; times: one number, or `[batch]`."""
        return Conditioning(self.prompt_embeds.repeat_interleave(times, dim=0))

    def to(self, device: torch.device) -> "Conditioning":
        return Conditioning(self.prompt_embeds.to(device))
