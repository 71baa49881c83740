"""The before/after picture of the README: a run's own sample videos as film strips, one below the other.

python -m examples.miniature.picture runs/miniature docs/images/before_after.png
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from cluster.monitor.rows import of_kind, read_metrics
from media.video_read import read_video

ROWS = 12


def strip(path: Path) -> np.ndarray:
    """All frames of a video beside each other: uint8 `[height, frames * width, 3]`."""
    frames, _ = read_video(path)
    return np.concatenate(list(frames), axis=1)


def main() -> None:
    """Take the first videos that were kept, whatever they show: the same prompt and seed before and after."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    shown = {row["phase"]: row["kept"][:ROWS] for row in of_kind(read_metrics(folder / "metrics.jsonl"), "evaluation")}
    figure, axes = plt.subplots(len(shown["before"]), 2, figsize=(13, 0.95 * len(shown["before"])))
    for row, pair in enumerate(zip(shown["before"], shown["after"], strict=True)):
        for axis, phase, video in zip(axes[row], ("before", "after"), pair, strict=True):
            axis.imshow(strip(folder / video["file"]))
            axis.set_xticks([])
            axis.set_yticks([])
            found = video["figures"]
            verdict = f"distorted: {found['reason']}" if found["distorted"] else "clean"
            axis.set_title(
                f"{phase}: {video['prompt']} ({verdict})",
                fontsize=8,
                pad=3,
                color="firebrick" if found["distorted"] else "black",
            )
    figure.tight_layout(pad=0.4)
    figure.savefig(out, dpi=85)


if __name__ == "__main__":
    main()
