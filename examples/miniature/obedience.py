"""Does alignment cost obedience? Colour and direction of videos against their prompts, before and after an adapter.

    python -m examples.miniature.obedience runs/miniature/adapter

Neither the ranker nor the meter looks at either, so this is where a policy that learns to please them would show it.
Plain diffusers samples the held-out prompts, with seeds that no run uses.
"""

# diffusers' annotations say neither what it exports nor what its calls return.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false, reportArgumentType=false

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline

from examples.miniature.meter import centres_of, foreground, straight_line
from examples.miniature.prompts.make import split
from examples.miniature.train_bundle import sample_videos
from examples.miniature.world import COLORS, DIRECTIONS, SKIN

BUNDLE = Path(__file__).parent / "weights" / "bundle"
SEED = 9_000_000


def color_of(frame: np.ndarray) -> str | None:
    """The world's colour nearest to the median of the subject's pixels, a person's head left out; None without any.

    `frame`: uint8 `[height, width, 3]`.
    """
    subject = foreground(frame[None])[0] > 0.9
    subject &= np.abs(frame.astype(np.float32) - SKIN).max(-1) > 90
    if not subject.any():
        return None
    middle = np.median(frame[subject].astype(np.float32), axis=0)
    return min(COLORS, key=lambda name: float(np.square(middle - COLORS[name]).sum()))


def obeys(frames: np.ndarray, prompt: str) -> tuple[bool, bool]:
    """Whether the subject has the prompt's colour in every frame, and whether it moves the prompt's way.

    `frames`: uint8 `[frames, height, width, 3]`. The way is the larger component of the straight line's slope.
    """
    words = prompt.split()
    color = next(word for word in words if word in COLORS)
    weights = foreground(frames)
    line, _ = straight_line(centres_of(weights), weights.sum((1, 2)) > 0)
    dx, dy = line[-1] - line[0]
    step = (float(np.sign(dx)), 0.0) if abs(dx) > abs(dy) else (0.0, float(np.sign(dy)))
    return all(color_of(frame) == color for frame in frames), step == DIRECTIONS[words[-1]]


def main() -> None:
    """Print both shares before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--count", type=int, default=192)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    held_out = [line.split("\t")[1] for line in split()[1]]
    prompts = [held_out[index % len(held_out)] for index in range(arguments.count)]
    pipe = WanPipeline.from_pretrained(BUNDLE)
    pipe.set_progress_bar_config(disable=True)
    for phase in ("before", "after"):
        if phase == "after":
            pipe.load_lora_weights(arguments.adapter)
        videos = sample_videos(pipe, prompts, seed=SEED, steps=10, guidance=2.0)
        found = np.array([obeys(video, prompt) for video, prompt in zip(videos, prompts, strict=True)])
        color, direction = found.mean(0)
        print(f"{phase}: colour {color:.1%}, direction {direction:.1%} of {len(found)} videos")


if __name__ == "__main__":
    main()
