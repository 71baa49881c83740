"""Wan's flow, defined once: noising, the velocity target, the shift of sigmas, and the grid that inference visits.

`x_t = (1 - sigma) x_0 + sigma eps`, target `v = eps - x_0`, model time `t = sigma T` with `T = 1000`. sigma is in
[0, 1]: 0 is the clean video, 1 is noise. Imports nothing heavy but torch, so that a learner can import it at once.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from policy.bundle import SHIFT_KEYS


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """`x_t = (1 - sigma) x_0 + sigma eps`; `clean`, `noise`: `[batch, ...]`; `sigma`: a number or `[batch]`."""
    sigma = _per_sample(sigma, clean)
    return (1 - sigma) * clean + sigma * noise


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """`v = eps - x_0`, what the transformer is trained to say at every sigma."""
    return noise - clean


def shift_sigma(unshifted: Tensor, shift: float) -> Tensor:
    """`s u / (1 + (s - 1) u)` (paper, Eq. 5); `shift` > 1 moves sigmas toward noise, 1 leaves them as they are."""
    if not shift > 0:
        raise ValueError(f"the flow shift must be positive, got {shift}")
    return shift * unshifted / (1 + (shift - 1) * unshifted)


@dataclass(frozen=True)
class InferenceGrid:
    """The steps that the sampler visits, noisiest first, the terminal 0 left out.

    `timesteps`: `[N]`, exactly what the model is given (UniPC truncates to int64, FlowMatchEuler keeps floats);
    `sigmas`: float32 `[N]`, the noise level that the latents really have there.
    """

    timesteps: Tensor
    sigmas: Tensor


def inference_grid(scheduler: Any, steps: int) -> InferenceGrid:
    """The grid of `steps` steps, read off a copy of the bundle's own scheduler and never rebuilt from a formula.

    `scheduler`: a diffusers flow-matching scheduler; it is left untouched.
    """
    visited = copy.deepcopy(scheduler)
    visited.set_timesteps(steps)
    sigmas = torch.as_tensor(visited.sigmas, dtype=torch.float32)[: len(visited.timesteps)]
    return InferenceGrid(visited.timesteps.clone(), sigmas.clone())


def unshifted_sigmas(scheduler: Any, steps: int) -> Tensor:
    """float64 `[N]`: the sigmas that `shift_sigma` with the scheduler's own shift makes the sampler's (paper's `u`).

    The shift is read under the key of the scheduler's class: a config may hold keys that another class left in it.
    """
    shift = float(scheduler.config[SHIFT_KEYS[type(scheduler).__name__]])
    sigmas = inference_grid(scheduler, steps).sigmas.double()
    return sigmas / (shift - (shift - 1) * sigmas)


def _per_sample(sigma: Tensor | float, like: Tensor) -> Tensor:
    """`sigma` as a tensor that broadcasts over `like`: `[]` or `[batch, 1, ...]`."""
    sigma = torch.as_tensor(sigma, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    return sigma.reshape(sigma.shape + (1,) * (like.ndim - 1)) if sigma.ndim else sigma
