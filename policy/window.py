"""A few frames of a video, decoded with their gradient: what a reward of pixels learns through."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def decode_window(vae: Any, raw: Tensor, first: int, count: int) -> Tensor:
    """The frames of `count` latent frames from `first` on: `[batch, 3, frames, height, width]` in [-1, 1].

    `raw`: the VAE's own latents `[batch, channels, latent_frames, height, width]`. The VAE is causal: what the frames
    before left in its cache is computed without a gradient, so values are those of the whole video. The
    gradient is that of the window alone. It is checkpointed frame by frame: memory does not grow with the video.
    """
    vae.clear_cache()
    cache = tuple(vae._feat_map)  # what a decoder has seen of nothing; diffusers has no other access to it
    frames = []
    for place in range(first + count):
        latent = raw[:, :, place : place + 1]
        if place < first:
            with torch.no_grad():
                _, cache = _one(vae, latent, cache, place == 0)
        else:
            decoded, cache = checkpoint(_one, vae, latent, cache, place == 0, use_reentrant=False)  # pyright: ignore
            frames.append(decoded)
    pixels = torch.cat(frames, dim=2)
    if vae.config.patch_size is not None:
        pixels = unpatchify(pixels, patch_size=vae.config.patch_size)
    return pixels.clamp(-1, 1)


def _one(vae: Any, latent: Tensor, cache: tuple[Any, ...], is_first: bool) -> tuple[Tensor, tuple[Any, ...]]:
    """The frames of one latent frame, and the cache after it; the one that is given stays as it is."""
    after = list(cache)
    decoded = vae.decoder(vae.post_quant_conv(latent), feat_cache=after, feat_idx=[0], first_chunk=is_first)
    return decoded, tuple(after)
