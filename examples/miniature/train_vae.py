"""Train the miniature's `AutoencoderKLWan` on rendered videos, clean and distorted alike.

    python -m examples.miniature.train_vae --out examples/miniature/weights/bundle/vae

The network is convolutional, so it trains on small windows around the subject: four times cheaper, and all of it is
content. Prints the reconstruction error on whole frames and saves an ordinary diffusers folder whose config carries the
measured mean and spread of the latents, as Wan's own does.
"""

# diffusers' annotations say neither what it exports nor what its calls return.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false, reportArgumentType=false

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from examples.miniature.world import BACKGROUND, SIZE, draw_any, render

CHANNELS = 16


def build_vae(mean: list[float], std: list[float]) -> AutoencoderKLWan:
    """Latents `[16, 5, 8, 8]` of a `[3, 9, 32, 32]` video: 2x in time, 4x in space."""
    return AutoencoderKLWan(
        base_dim=16,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        attn_scales=[],
        latents_mean=mean,
        latents_std=std,
        scale_factor_temporal=2,
        scale_factor_spatial=4,
    )


def videos(count: int, seed: int, distorted_share: float = 0.5) -> torch.Tensor:
    """Rendered videos as the VAE takes them: float32 `[count, 3, frames, height, width]` in [-1, 1]."""
    rng = np.random.default_rng(seed)
    drawn = np.stack([render(draw_any(rng, bool(rng.random() < distorted_share))) for _ in range(count)])
    return torch.from_numpy(drawn).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def window_of(video: torch.Tensor, size: int, background: torch.Tensor) -> torch.Tensor:
    """A `size` x `size` window of each video, placed at random around a frame's subject."""
    content = ((video - background).abs().amax(1) > 0.15).float()
    windows = []
    for index, frames in enumerate(video):
        frame = content[index, int(torch.randint(len(content[index]), ()))]
        spots = frame.nonzero()
        y, x = spots[int(torch.randint(len(spots), ()))].tolist() if len(spots) else (SIZE // 2, SIZE // 2)
        top, left = (int(min(max(v - size // 2 + int(torch.randint(-4, 5, ())), 0), SIZE - size)) for v in (y, x))
        windows.append(frames[:, :, top : top + size, left : left + size])
    return torch.stack(windows)


def main() -> None:
    """Train, measure on other seeds, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    train, held_out = videos(4096, arguments.seed), videos(128, arguments.seed + 1)
    background = torch.from_numpy(BACKGROUND / 127.5 - 1.0).view(1, 3, 1, 1, 1)
    vae = build_vae([0.0] * CHANNELS, [1.0] * CHANNELS)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=0.01, betas=(0.9, 0.95))
    start = time.monotonic()
    for step in range(arguments.steps):
        rate = min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / (2 * arguments.steps)))
        optimizer.param_groups[0]["lr"] = 3e-3 * max(rate, 0.02)
        video = window_of(train[torch.randint(len(train), (12,))], SIZE // 2, background)
        # The mean, not a sample: at the start a sample is all noise, and unlearning that would take most of the time.
        latents = vae.encode(video).latent_dist.mean
        decoded = vae.decode(latents + 0.05 * torch.randn_like(latents)).sample
        weight = 1 + 3 * ((video - background).abs().amax(1, keepdim=True) > 0.15)
        off = (decoded - video).abs()
        error = ((off + 4 * off**2) * weight).mean()
        loss = error + 1e-3 * latents.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == arguments.steps - 1:
            print(f"step {step} loss {error.item():.4f} {time.monotonic() - start:.0f} s", flush=True)
        if step % 300 == 299 or step == arguments.steps - 1:
            save(vae, train[:512], held_out, arguments.out)


@torch.no_grad()
def save(vae: AutoencoderKLWan, sample: torch.Tensor, held_out: torch.Tensor, out: Path) -> None:
    """Write the folder with the latents' statistics in its config, and print the held-out error."""
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in sample.split(64)])
    mean, std = latents.mean((0, 2, 3, 4)).tolist(), latents.std((0, 2, 3, 4)).tolist()
    saved = build_vae(mean, std)
    saved.load_state_dict(vae.state_dict())
    saved.save_pretrained(out)
    decoded = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample for part in held_out.split(64)])
    mse = ((decoded.clamp(-1, 1) - held_out) / 2).pow(2).mean().item()
    print(f"held-out PSNR {-10 * math.log10(mse):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
