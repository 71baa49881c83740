"""How often does the paired interval of an evaluation cover zero if the policy has not changed? It should be 95%.

    python -m benchmarks.null_evaluation --out benchmarks/results/null_evaluation.json

The bundle itself makes many videos of every held-out prompt, each from a noise of its own, measured once.
A repetition deals them out anew: some are "before" and as many others "after", as in an evaluation of the demo. So both
sides are real videos of one policy, and every difference is chance.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from actors.evaluator import Evaluator
from actors.generator import Generator
from actors.prompts import read_prompts
from buffers.figures import Measured, differences_of, wilson_interval
from buffers.portions import portions
from buffers.records import Request
from configs.load import load_config
from media.whole import whole_file

FIRST_SEED = 500_000_000
"""Of the noises: nothing else has looked at these."""


def measured_videos(per_prompt: int) -> Measured:
    """Columns of the untrained policy's videos, sampled as the demo's; `per_prompt` rows of each held-out prompt."""
    config = load_config(Path("configs/miniature.yaml"))
    generator, evaluator = Generator(config), Evaluator(config.evaluation.meter, Path(), 0, config.sampling.fps)
    prompts = read_prompts(config.evaluation.prompts, max_characters=config.prompts.max_characters)
    measured = 0
    for number, condition in enumerate(prompts):
        start = FIRST_SEED + number * per_prompt
        seeds = [(seed, seed + 1) for seed in range(start, start + per_prompt, 2)]
        for some in portions(seeds, config.generator.conditions_per_request):
            request = Request((condition,) * len(some), tuple(some))
            measured += evaluator.measure("null", measured, generator.show(request, config.sampling))
        print(f"{number + 1} of {len(prompts)} prompts", flush=True)
    return evaluator.summary("null")["measured"]


def coverage(videos: Measured, *, per_prompt: int, side: int, repetitions: int, seed: int) -> dict[str, object]:
    """Of each figure: in how many repetitions its interval covers zero. `side`: videos of each prompt on each side."""
    rng = np.random.default_rng(seed)
    covered = Counter[str]()
    firsts = range(0, len(videos["prompt"]), per_prompt)
    for _ in range(repetitions):
        dealt = np.stack([first + rng.permutation(per_prompt)[: 2 * side] for first in firsts])
        before, after = (
            {name: [column[row] for row in rows.ravel()] for name, column in videos.items()}
            for rows in (dealt[:, :side], dealt[:, side:])
        )
        for name, figure in differences_of(after, before).items():
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
    settings = {key: value for key, value in vars(arguments).items() if key != "out"}
    found = coverage(videos, **settings, seed=0)
    means = {name: round(float(np.mean(videos[name])), 4) for name in found}
    with whole_file(arguments.out) as unfinished:
        unfinished.write_text(json.dumps({**settings, "means": means, "covers_zero": found}, indent=2) + "\n")
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
