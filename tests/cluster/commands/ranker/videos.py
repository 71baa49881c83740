"""Video files for the commands of the judge: good ones, and some that it cannot be shown."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from media.video_write import write_mp4


def video(file: Path, *, height: int = 32, width: int = 32, frames: int = 9, level: int = 100) -> Path:
    """Evenly lit, and a little brighter frame by frame."""
    frames_ = (
        np.full((frames, height, width, 3), level, np.uint8) + np.arange(frames, dtype=np.uint8)[:, None, None, None]
    )
    write_mp4(file, frames_, fps=8.0)
    return file


def damaged(file: Path) -> Path:
    """No byte of the second half of its data is as it was; its index and its first frames are whole.

    A moving ground with a little noise: the encoder reorders its frames, so that packets say when each is shown.
    """
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 180, (64, 64, 3))
    frames = np.stack([np.roll(ground, (place, 2 * place), (0, 1)) for place in range(24)])
    write_mp4(file, (frames + rng.integers(-12, 12, frames.shape)).astype(np.uint8), fps=8.0)
    data = bytearray(file.read_bytes())
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    data[start + size // 2 : start + size] = b"\xff" * (size - size // 2)
    file.write_bytes(data)
    return file


def manifest(folder: Path, *pairs: tuple[Path, Path], **columns: Any) -> Path:
    """A row a pair: in all of them people say that the first video is the better one."""
    rows = [{"a": a.name, "b": b.name, "domain": "general", "label": 1, **columns} for a, b in pairs]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pairs.jsonl"
