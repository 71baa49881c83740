"""Labelled pairs of the small world as people's would lie on disk: video files and a manifest.

    python -m examples.miniature.judge_pairs runs/judge/held_out --pairs 1000 --seed 2
    python -m examples.miniature.judge_pairs runs/judge/train --pairs 8000 --seed 1 --pool drawn.npz --pool made.npz

What `apogee ranker train` and `apogee ranker score` read. The pixel meter stands for the annotators. Half of the pairs
are of a clean and a distorted video, half differ in motion alone; both domains, distortions of every kind and severity.
Videos are drawn for it, or come from pools (of `label_generated`, say), an equal part of the pairs from each. With
`--slow-motion` each pair is a part of a clean video and a slowed part of it, as training mines them.
"""

# pyright: reportPrivateImportUsage=false

import argparse
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from rich.progress import track

from configs.ranker import SlowMotionConfig
from examples.miniature.judge_data import VideoPool, meetings, rendered_pool
from examples.miniature.meter import measure
from examples.miniature.world import FPS, FRAMES, draw_any, render
from ranker.frames import sample_frames
from ranker.training.slow_motion import frames_wanted, slow_motion_pair


def write_pairs(folder: Path, pools: list[VideoPool], *, pairs: int, seed: int) -> Path:
    """`pairs` pairs into `folder`, both videos of a pair from the same pool; the manifest's path.

    Raises FileExistsError if the folder holds a manifest.
    """
    manifest = _new_manifest(folder)
    rng, rows = np.random.default_rng(seed), []
    for number, pool in enumerate(pools):
        share = pairs * (number + 1) // len(pools) - pairs * number // len(pools)
        first, second, label = meetings(pool, share, 1, rng)
        for a, b, right in zip(first, second[:, 0], label[:, 0], strict=True):
            domain = "human" if pool.human[a] else "general"
            row = {"a": f"{number}-{a}.mkv", "b": f"{number}-{b}.mkv", "domain": domain, "label": int(right)}
            row["criterion"] = "motion"
            if right <= 2:
                worse = b if right == 1 else a
                row["criterion"] = measure(pool.videos[worse], "a person" if pool.human[worse] else "").reason
            rows.append(row)
        shown = sorted({*first.tolist(), *second[:, 0].tolist()})
        for index in track(shown, description=f"videos of pool {number}", transient=True):
            write_lossless(folder / f"{number}-{index}.mkv", pool.videos[index])
    return _write_rows(manifest, rows)


def write_slow_pairs(folder: Path, *, pairs: int, seed: int) -> Path:
    """As `write_pairs`, of parts of clean videos and slowed parts of them, either first; label 3 or 4 names the
    standard one. The videos are drawn with as many frames as it takes for both parts to have real ones alone."""
    manifest = _new_manifest(folder)
    rng, rows = np.random.default_rng(seed), []
    for number in range(pairs):
        scene, factor = draw_any(rng), float(rng.choice(SlowMotionConfig().factors))
        frames = frames_wanted(factor, FRAMES)
        video = render(scene, frames=frames, pace=(FRAMES - 1) / (frames - 1))
        source = sample_frames(video, fps=FPS * factor, count=frames)
        standard, slowed = slow_motion_pair(source, count=FRAMES, factor=factor, start=float(rng.random()))
        for name, footage in (("standard", standard), ("slow", slowed)):
            write_lossless(folder / f"{number}-{name}.mkv", footage.frames)
        first, second = ("standard", "slow") if rng.random() < 0.5 else ("slow", "standard")
        row = {"a": f"{number}-{first}.mkv", "b": f"{number}-{second}.mkv", "domain": scene.domain}
        row["prompt"] = scene.prompt
        rows.append(row | {"label": 3 if first == "standard" else 4, "criterion": f"slowed {factor:g} times"})
    return _write_rows(manifest, rows)


def _new_manifest(folder: Path) -> Path:
    manifest = folder / "pairs.jsonl"
    if manifest.exists():
        raise FileExistsError(f"{manifest} is there already")
    folder.mkdir(parents=True, exist_ok=True)
    return manifest


def _write_rows(manifest: Path, rows: list[dict]) -> Path:
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
    parser.add_argument("--pool", type=Path, action="append", help="npz of labelled videos in place of drawn ones")
    parser.add_argument(
        "--wobbly-share", type=float, default=0.4, help="of the drawn videos: unsteady, from hardly to badly"
    )
    parser.add_argument("--slow-motion", action="store_true", help="clean videos beside slowed parts of themselves")
    arguments = parser.parse_args()
    if arguments.slow_motion:
        print(write_slow_pairs(arguments.folder, pairs=arguments.pairs, seed=arguments.seed))
        return
    if arguments.pool:
        pools = [VideoPool.load(path) for path in arguments.pool]
    else:
        pools = [rendered_pool(arguments.pairs, seed=arguments.seed, wobbly_share=arguments.wobbly_share)]
    print(write_pairs(arguments.folder, pools, pairs=arguments.pairs, seed=arguments.seed))


if __name__ == "__main__":
    main()
