"""Sample videos from the bundle and have the meter label them, as people would label a generator's videos.

    python -m examples.miniature.label_generated --bundle examples/miniature/weights/bundle --out generated.npz

These are training data for the ranker (`pretrain_judge --extra`, `judge_pairs --pool`): the training prompts, and
seeds that no run uses, from one million up.
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
from examples.miniature.train_bundle import sample_videos

FIRST_SEED = 1_000_000


def main() -> None:
    """Sample, measure, save `videos`, `distorted`, `motion`, `human`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--domain", choices=("general", "human"), help="prompts of this domain alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe = WanPipeline.from_pretrained(arguments.bundle)
    known = [line.split("\t") for line in split()[0]]
    known = [prompt for domain, prompt in known if domain == (arguments.domain or domain)]
    rng = np.random.default_rng(arguments.first_seed)
    prompts = [known[int(rng.integers(len(known)))] for _ in range(arguments.count)]
    videos = sample_videos(pipe, prompts, seed=arguments.first_seed, steps=arguments.steps, guidance=arguments.guidance)
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
