"""Sample videos from the bundle and have the meter label them, as people would label a generator's videos.

    python -m examples.miniature.label_generated --bundle examples/miniature/weights/bundle --out generated.npz

These are training data for the ranker (`train_judge --extra`): the training prompts, and seeds that no run uses, from
one million up.
"""

# diffusers' annotations say neither what it exports nor what its calls return.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false, reportArgumentType=false

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline

from examples.miniature.meter import measure
from examples.miniature.prompts.make import split
from examples.miniature.train_bundle import TEXT_TOKENS
from examples.miniature.world import FRAMES, SIZE

FIRST_SEED = 1_000_000


def sample(bundle: Path, count: int, *, steps: int, guidance: float, first_seed: int) -> tuple[np.ndarray, list[str]]:
    """uint8 `[count, frames, height, width, 3]` and their prompts, through plain diffusers."""
    pipe = WanPipeline.from_pretrained(bundle)
    pipe.set_progress_bar_config(disable=True)
    prompts = [line.split("\t")[1] for line in split()[0]]
    rng = np.random.default_rng(first_seed)
    chosen = [prompts[int(rng.integers(len(prompts)))] for _ in range(count)]
    videos = []
    for first in range(0, count, 32):
        part = chosen[first : first + 32]
        generator = torch.Generator().manual_seed(first_seed + first)
        made = pipe(
            part,
            height=SIZE,
            width=SIZE,
            num_frames=FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=TEXT_TOKENS,
            generator=generator,
            output_type="np",
        ).frames
        videos.append((np.asarray(made) * 255).round().astype(np.uint8))
        print(f"{min(first + 32, count)} of {count} videos", flush=True)
    return np.concatenate(videos), chosen


def main() -> None:
    """Sample, measure, save `videos`, `distorted`, `motion`, `human`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    videos, prompts = sample(
        arguments.bundle,
        arguments.count,
        steps=arguments.steps,
        guidance=arguments.guidance,
        first_seed=arguments.first_seed,
    )
    found = [measure(video, prompt) for video, prompt in zip(videos, prompts, strict=True)]
    np.savez_compressed(
        arguments.out,
        videos=videos,
        distorted=np.array([m.distorted for m in found]),
        motion=np.array([m.motion for m in found]),
        human=np.array(["person" in prompt for prompt in prompts]),
    )
    print(f"{np.mean([m.distorted for m in found]):.1%} of {len(found)} videos are distorted")


if __name__ == "__main__":
    main()
