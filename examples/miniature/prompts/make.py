"""Write `train.txt` and `held_out.txt`: every prompt of the world is in exactly one of the two.

    python -m examples.miniature.prompts.make

A quarter is held out such that every colour, subject and direction still occurs in both files.
"""

from pathlib import Path

from examples.miniature.world import COLORS, DIRECTIONS, SHAPES, draw

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


def main() -> None:
    """Write both files beside this script."""
    for name, lines in zip(("train", "held_out"), split(), strict=True):
        (HERE / f"{name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
