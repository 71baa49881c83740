"""How often does the paired interval of an evaluation cover zero if the policy has not changed? It should be 95%.

    python -m benchmarks.null_evaluation --out benchmarks/results/null_evaluation.json

The bundle itself makes many videos of every held-out prompt, each from a noise of its own, measured once.
A repetition deals them out anew: some are "before" and as many others "after", as in an evaluation of the demo. So both
sides are real videos of one policy, and every difference is chance.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from actors.generator import Generator
from actors.prompts import read_prompts
from buffers.figures import Measured, differences_of, wilson_interval
from buffers.records import Request
from configs.load import load_config
from configs.user_function import user_function
from media.whole import whole_file

FIRST_SEED = 500_000_000
"""Of the noises: nothing else has looked at these."""


def measured_videos(per_prompt: int) -> dict[str, np.ndarray]:
    """Figure -> `[prompts, per_prompt]`, of the untrained policy, sampled as the demo samples."""
    config = load_config(Path("configs/miniature.yaml"))
    generator = Generator(config)
    meter = user_function(str(config.evaluation.meter), key="evaluation.meter", example="")
    prompts = read_prompts(config.evaluation.prompts, max_characters=config.prompts.max_characters)
    found: dict[str, list[list[float]]] = {}
    for number, condition in enumerate(prompts):
        start = FIRST_SEED + number * per_prompt
        seeds = tuple((seed, seed + 1) for seed in range(start, start + per_prompt, 2))
        for name in found:
            found[name].append([])
        for first in range(0, len(seeds), 4):
            some = seeds[first : first + 4]
            _, clips = generator.generate(Request((condition,) * len(some), some))
            for video in (video for clip in clips for video in (clip.video_a, clip.video_b)):
                for name, value in meter(video, condition.prompt).items():
                    if not isinstance(value, str):
                        found.setdefault(name, [[]])[-1].append(float(value))
        print(f"{number + 1} of {len(prompts)} prompts", flush=True)
    return {name: np.array(values) for name, values in found.items()}


def coverage(videos: dict[str, np.ndarray], *, side: int, repetitions: int, seed: int) -> dict[str, object]:
    """Of each figure: in how many repetitions its interval covers zero. `side`: videos of each prompt on each side."""
    rng = np.random.default_rng(seed)
    covered = dict.fromkeys(videos, 0)
    prompts, per_prompt = next(iter(videos.values())).shape
    for _ in range(repetitions):
        dealt = np.stack([rng.permutation(per_prompt)[: 2 * side] for _ in range(prompts)])
        sides: list[Measured] = []
        for places in (dealt[:, :side], dealt[:, side:]):
            values = {name: np.take_along_axis(of, places, axis=1).ravel() for name, of in videos.items()}
            typed = {
                name: [bool(v) for v in of] if set(of) <= {0.0, 1.0} else of.tolist() for name, of in values.items()
            }
            texts = np.repeat([f"prompt {n}" for n in range(prompts)], side).tolist()
            sides.append({"prompt": texts, "domain": ["unknown"] * len(texts), **typed})
        for name, figure in differences_of(sides[1], sides[0]).items():
            low, high = figure["interval"]
            covered[name] += low <= 0.0 <= high
    return {
        name: {"covered": count, "of": repetitions, "interval": wilson_interval(count / repetitions, repetitions)}
        for name, count in covered.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-prompt", type=int, default=40, help="videos of each held-out prompt")
    parser.add_argument("--side", type=int, default=10, help="of these, videos of each prompt on each side")
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    videos = measured_videos(arguments.per_prompt)
    means = {name: round(float(values.mean()), 4) for name, values in videos.items()}
    found = coverage(videos, side=arguments.side, repetitions=arguments.repetitions, seed=0)
    settings = {key: value for key, value in vars(arguments).items() if key != "out"}
    with whole_file(arguments.out) as unfinished:
        unfinished.write_text(json.dumps({**settings, "means": means, "covers_zero": found}, indent=2) + "\n")
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
