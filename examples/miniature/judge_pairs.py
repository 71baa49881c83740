"""Labelled pairs of the small world as people's would lie on disk: video files and a manifest.

    python -m examples.miniature.judge_pairs runs/judge/train --pairs 4000 --seed 1
    python -m examples.miniature.judge_pairs runs/judge/held_out --pairs 1000 --seed 2

What `apogee ranker train` and `apogee ranker score` read. The pixel meter stands for the annotators. Half of the pairs
are of a clean and a distorted video, half differ in motion alone; both domains, distortions of every kind and severity.
"""

# pyright: reportPrivateImportUsage=false

import argparse
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from rich.progress import track

from examples.miniature.judge_data import meetings, rendered_pool
from examples.miniature.meter import measure
from examples.miniature.world import FPS


def write_pairs(folder: Path, *, pairs: int, seed: int, wobbly_share: float = 0.4) -> Path:
    """`pairs` pairs of as many videos into `folder`; the manifest's path.

    Raises FileExistsError where the folder holds a manifest.
    """
    manifest = folder / "pairs.jsonl"
    if manifest.exists():
        raise FileExistsError(f"{manifest} is there already")
    folder.mkdir(parents=True, exist_ok=True)
    pool = rendered_pool(pairs, seed=seed, wobbly_share=wobbly_share)
    first, second, label = meetings(pool, pairs, 1, np.random.default_rng(seed))
    rows = []
    for a, b, right in zip(first, second[:, 0], label[:, 0], strict=True):
        domain = "human" if pool.human[a] else "general"
        row = {"a": f"{a}.mkv", "b": f"{b}.mkv", "domain": domain, "label": int(right), "criterion": "motion"}
        if right <= 2:
            worse = b if right == 1 else a
            row["criterion"] = measure(pool.videos[worse], "a person" if pool.human[worse] else "").reason
        rows.append(row)
    for index in track(sorted({*first.tolist(), *second[:, 0].tolist()}), description="videos", transient=True):
        write_lossless(folder / f"{index}.mkv", pool.videos[index])
    manifest.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return manifest


def write_lossless(path: Path, video: np.ndarray) -> None:
    """FFV1: at 32 x 32 H.264's halved colour resolution would be a distortion of its own."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(FPS))
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "bgr0"
        for picture in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    print(write_pairs(arguments.folder, pairs=arguments.pairs, seed=arguments.seed))


if __name__ == "__main__":
    main()
