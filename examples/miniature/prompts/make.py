"""Write `train.txt` and `held_out.txt`: every prompt of the world is in exactly one of the two.

`framed_train.txt` and `framed_held_out.txt` have the same prompts with pictures that their videos begin with.

    python -m examples.miniature.prompts.make

A quarter is held out such that every colour, subject and direction still occurs in both files.
"""

import itertools
from pathlib import Path

import numpy as np

from examples.miniature.world import COLORS, DIRECTIONS, SHAPES, draw, render
from media.pictures import write_png

HERE = Path(__file__).parent


def split() -> tuple[list[str], list[str]]:
    """Lines `domain<TAB>prompt` of the training and of the held-out file."""
    train, held_out = [], []
    for c, color in enumerate(COLORS):
        for s, subject in enumerate((*SHAPES, "person")):
            for d, direction in enumerate(DIRECTIONS):
                scene = draw(color, subject, direction)
                (held_out if (c + s + d) % 4 == 0 else train).append(f"{scene.domain}\t{scene.prompt}")
    return train, held_out


def framed(lines: list[str], name: str, count: int, rng: np.random.Generator) -> list[str]:
    """Each line `count` times, with the first frame of a drawn video of its own, written to `first_frames/`."""
    scenes = {draw(*content).prompt: content for content in itertools.product(COLORS, (*SHAPES, "person"), DIRECTIONS)}
    made = []
    for line in lines:
        prompt = line.split("\t")[1]
        for number in range(count):
            picture = f"first_frames/{name}-{prompt.replace(' ', '-')}-{number}.png"
            write_png(HERE / picture, render(draw(*scenes[prompt], rng))[0])
            made.append(f"{line}\t{picture}")
    return made


def main() -> None:
    """Write all files beside this script."""
    (HERE / "first_frames").mkdir(exist_ok=True)
    for seed, (name, lines, count) in enumerate(zip(("train", "held_out"), split(), (2, 1), strict=True)):
        (HERE / f"{name}.txt").write_text("\n".join(lines) + "\n")
        with_pictures = framed(lines, name, count, np.random.default_rng(seed))
        (HERE / f"framed_{name}.txt").write_text("\n".join(with_pictures) + "\n")


if __name__ == "__main__":
    main()
