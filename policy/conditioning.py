"""What a condition is to the model, opaque to every other room: a new family changes this file and `policy.py`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Described:
    """A condition before it is encoded. `first_frame`: the picture that its videos begin with, uint8
    `[height, width, 3]` at their size."""

    prompt: str
    first_frame: np.ndarray | None = None


@dataclass(frozen=True)
class Conditioning:
    """A batch of conditions as the transformer takes them, one row per video.

    `prompt_embeds`: `[batch, tokens, dim]`. `frame_latents`: of the first frames, if there are such: with a mask the
    channels that are joined to the noisy latents, `[batch, mask + channels, frames, height, width]`, or in TI2V-5B the
    first of the latent frames, `[batch, channels, 1, height, width]`. `frame_embeds`: their CLIP embeddings,
    `[batch, tokens, image_dim]`, if the transformer takes such (Wan2.1).
    """

    prompt_embeds: Tensor
    frame_latents: Tensor | None = None
    frame_embeds: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def row(self, index: int) -> dict[str, Tensor]:
        """One condition's tensors by name, without the batch axis: what is stored of it."""
        return {name: tensor[index] for name, tensor in self._tensors().items()}

    @classmethod
    def of_row(cls, row: Mapping[str, Tensor]) -> "Conditioning":
        """A batch of one, from what `row` gave."""
        return cls(**{name: tensor[None] for name, tensor in row.items()})

    @classmethod
    def joined(cls, parts: Iterable["Conditioning"]) -> "Conditioning":
        """The rows of all parts, which have the same tensors, one after the other."""
        held = [part._tensors() for part in parts]
        return cls(**{name: torch.cat([each[name] for each in held]) for name in held[0]})

    def repeated(self, times: int | Tensor) -> "Conditioning":
        """Every row `times` times, neighbours; times: one number, or `[batch]`."""
        return self._each(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def to(self, device: torch.device) -> "Conditioning":
        return self._each(lambda tensor: tensor.to(device))

    def with_prompt(self, other: "Conditioning") -> "Conditioning":
        """The same first frames with another prompt, `other`'s one row: the conditioning of the unconditional pass."""
        return replace(self, prompt_embeds=other.prompt_embeds.to(self.prompt_embeds).expand(len(self), -1, -1))

    def _tensors(self) -> dict[str, Tensor]:
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        return Conditioning(**{name: change(tensor) for name, tensor in self._tensors().items()})
