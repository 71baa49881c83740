"""A window of frames, decoded with its gradient, against diffusers' own decoder and autograd through all of it."""

from typing import Any

import pytest
import torch

from policy.policy import VideoPolicy
from tests.policy.tiny_bundle import FAMILIES, save_tiny_bundle


@pytest.fixture(scope="module", params=["Wan2.1-T2V", "Wan2.2-TI2V-5B"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoPolicy:
    bundle = save_tiny_bundle(tmp_path_factory.mktemp("bundle") / "one", **FAMILIES[request.param])
    return VideoPolicy.load(bundle, dtype="float32", experts=False)


def latents_of(policy: VideoPolicy, frames: int = 4) -> torch.Tensor:
    channels = policy.facts.latent_shape(4 * (frames - 1) + 1, 64, 64)[0]
    return torch.randn(2, channels, frames, 4, 4, generator=torch.Generator().manual_seed(1))


def whole(policy: VideoPolicy, latents: torch.Tensor) -> torch.Tensor:
    """By diffusers' `decode`, in [0, 1]."""
    config: Any = policy.vae.config
    mean, std = (torch.tensor(each).view(1, -1, 1, 1, 1) for each in (config.latents_mean, config.latents_std))
    return policy.vae.decode(latents * std + mean, return_dict=False)[0] / 2 + 0.5


@pytest.mark.parametrize(
    ("first", "count", "frames"), [(0, 1, (0, 1)), (0, 4, (0, 13)), (1, 2, (1, 9)), (3, 1, (9, 13))]
)
def test_the_frames_are_those_of_the_whole_video(policy: VideoPolicy, first: int, count: int, frames: tuple[int, int]):
    latents = latents_of(policy)
    expected = whole(policy, latents).detach()[:, :, slice(*frames)]
    torch.testing.assert_close(policy.decode_frames(latents, first, count).detach(), expected, rtol=0, atol=1e-5)


def test_the_gradient_is_that_of_the_whole_decoder_for_the_latents_of_the_window(policy: VideoPolicy):
    """All latents in the window: exactly; the past left out: none of it has a gradient."""
    latents = latents_of(policy).requires_grad_()
    weights = torch.randn(2, 3, 13, *whole(policy, latents).shape[3:], generator=torch.Generator().manual_seed(2))
    (expected,) = torch.autograd.grad((whole(policy, latents) * weights).sum(), latents)
    (found,) = torch.autograd.grad((policy.decode_frames(latents, 0, 4) * weights).sum(), latents)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (late,) = torch.autograd.grad((policy.decode_frames(latents, 2, 2) * weights[:, :, 5:]).sum(), latents)
    assert not late[:, :, :2].any() and late[:, :, 2:].any()
    # What comes after the window does not reach it: its last latent frame has no other way into the pixels.
    torch.testing.assert_close(late[:, :, 3], expected[:, :, 3], rtol=1e-4, atol=1e-5)
