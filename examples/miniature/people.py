"""People's own data, drawn: videos and a manifest of pairs, labelled videos and prompts, for `apogee data ingest`.

    python -m examples.miniature.people runs/people
    apogee data ingest runs/people/people.jsonl --into runs/people_store
    apogee run configs/miniature.yaml buffer.offline=runs/people_store buffer.mix.online=0.75 buffer.mix.offline=0.25

Three annotators say of each pair of one prompt which video is less distorted; each of them is wrong one time in ten.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from examples.miniature.world import FPS, all_prompts, draw, render
from media.video_write import write_mp4

ANNOTATORS, WRONG = ("ann", "bob", "cat"), 0.1


def write_people(folder: Path, *, pairs: int, seed: int) -> Path:
    """A clean and a distorted video of each prompt, in either order, and each as an anchor; the manifest's path.

    Raises FileExistsError if the folder holds a manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest, rng = folder / "people.jsonl", np.random.default_rng(seed)
    with manifest.open("x", encoding="utf-8") as file:
        prompts = all_prompts()
        for number in track(range(pairs), description="drawing", transient=True):
            domain, prompt = prompts[int(rng.integers(len(prompts)))]
            clean, distorted = f"{number}-clean.mp4", f"{number}-distorted.mp4"
            for name in (clean, distorted):
                scene = draw(*_content(prompt), rng, name == distorted)
                write_mp4(folder / name, render(scene), fps=FPS)
            condition = {"prompt": prompt, "domain": domain}
            for row in _rows(clean, distorted, rng):
                file.write(json.dumps(condition | row) + "\n")
    return manifest


def _rows(clean: str, distorted: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    first, second, label = (clean, distorted, 1) if rng.random() < 0.5 else (distorted, clean, 2)
    rows: list[dict[str, Any]] = [
        {"a": first, "b": second, "label": 3 - label if rng.random() < WRONG else label, "annotator": name}
        for name in ANNOTATORS
    ]
    rows.append({"video": clean, "polarity": "positive"})
    rows.append({"video": distorted, "polarity": "negative"})
    return rows


def _content(prompt: str) -> tuple[str, str, str]:
    """Colour, subject and direction."""
    _, color, subject, _, direction = prompt.split()
    return color, subject, direction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(write_people(arguments.folder, pairs=arguments.pairs, seed=arguments.seed))


if __name__ == "__main__":
    main()
