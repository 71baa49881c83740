"""From a batch to the tensors that an objective takes, and which of them fit into one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from buffers.portions import portions
from buffers.records import Batch
from buffers.tensors import decode, decoded_condition
from learner.timesteps import keyed_generator
from policy.conditioning import Conditioning
from policy.flow import interpolate, velocity_target

Shape = tuple[int, ...]


class UnusablePairs(FloatingPointError):
    """Pairs that nothing can be learned from: their latents, or the loss of them, are not finite.

    `ids`: those of this rank; none if all of them are another rank's.
    """

    def __init__(self, ids: Sequence[str], message: str) -> None:
        super().__init__(message)
        self.ids = tuple(ids)


class Sample(Protocol):
    """What one column of the window is: a pair, or one video, or whatever the objective learns from."""

    @property
    def id(self) -> str:
        """Named in errors."""
        ...

    @property
    def shape(self) -> torch.Size:
        """`[channels, latent_frames, latent_height, latent_width]`; only equal ones share a forward pass."""
        ...


@dataclass(frozen=True)
class PairTensors:
    """One pair on the CPU.

    `chosen`, `rejected`, `noise`: float32 `[channels, latent_frames, latent_height, latent_width]`;
    `conditioning`: one row.
    """

    id: str
    chosen: Tensor
    rejected: Tensor
    noise: Tensor
    conditioning: Conditioning

    @property
    def shape(self) -> torch.Size:
        return self.chosen.shape


def load_pairs(batch: Batch, *, seed: int) -> list[PairTensors]:
    """The batch's pairs with the noise of its step: one draw per (seed, step, pair), for both videos and all timesteps.

    Raises ValueError if a pair's two latents differ in shape or its conditioning is missing, UnusablePairs if one of
    them is not finite; each names the pair.
    """
    rows = {key: decoded_condition(stored) for key, stored in batch.conditionings.items()}
    loaded = []
    for pair in batch.pairs:
        if pair.condition_id not in rows:
            raise ValueError(f"pair {pair.id}: the batch has no conditioning {pair.condition_id}")
        chosen, rejected, row = decode(pair.chosen).float(), decode(pair.rejected).float(), rows[pair.condition_id]
        if chosen.shape != rejected.shape:
            raise ValueError(
                f"pair {pair.id}: chosen latents have shape {tuple(chosen.shape)}, rejected {tuple(rejected.shape)}; "
                "they share one noise, so they must be equal"
            )
        for name, tensor in {"chosen latents": chosen, "rejected latents": rejected, **row}.items():
            if not tensor.isfinite().all():
                raise UnusablePairs([pair.id], f"pair {pair.id}: its {name} are not finite")
        noise = torch.randn(chosen.shape, generator=keyed_generator("noise", seed, batch.step, pair.id))
        loaded.append(PairTensors(pair.id, chosen, rejected, noise, Conditioning.of_row(row)))
    return loaded


class Noised(NamedTuple):
    """One of the two videos of every pair, as `VideoPolicy.velocity` takes them; `[pairs, ...]` on the device."""

    latents: Tensor
    timestep: Tensor
    conditioning: Conditioning
    target: Tensor
    """The velocity."""


def noised(
    pairs: Sequence[PairTensors], timesteps: Tensor, sigmas: Tensor, *, device: torch.device
) -> tuple[Noised, Noised]:
    """The chosen videos and the rejected ones, each pair's two with one noise and one timestep.

    They are two passes and not one of twice the videos: the backward pass then holds the activations of half as many.
    """
    noise = torch.stack([p.noise for p in pairs]).to(device)
    conditioning = Conditioning.joined([p.conditioning for p in pairs]).to(device)

    def of(videos: Sequence[Tensor]) -> Noised:
        clean = torch.stack([*videos]).to(device)
        target = velocity_target(clean, noise)
        return Noised(interpolate(clean, noise, sigmas), timesteps.to(device), conditioning, target)

    return of([pair.chosen for pair in pairs]), of([pair.rejected for pair in pairs])


def microbatches(shapes: Sequence[Shape], count: int, *, of_ranks: Sequence[Sequence[Shape]] = ()) -> list[list[int]]:
    """Places of up to `count` samples whose videos have one size.

    `of_ranks`: the shapes of every rank's samples. All ranks make equally many microbatches: a sharded model gathers
    its weights in each, and a rank that makes none would leave the others waiting. So a rank that needs fewer than
    another one divides some of its own.

    Example: samples of shapes a, b, a with count 2 make [[0, 2], [1]].
    """
    own = _microbatches(shapes, count)
    most = max((len(_microbatches(each, count)) for each in of_ranks), default=0)
    while len(own) < most:
        largest = max(own, key=len)
        place, half = own.index(largest), len(largest) // 2
        own[place : place + 1] = [largest[:half], largest[half:]]
    return own


def _microbatches(shapes: Sequence[Shape], count: int) -> list[list[int]]:
    by_shape: dict[Shape, list[int]] = {}
    for place, shape in enumerate(shapes):
        by_shape.setdefault(tuple(shape), []).append(place)
    return [[*some] for places in by_shape.values() for some in portions(places, count)]
