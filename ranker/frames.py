"""Which frames of a video the judge sees, of an array or of a file, with their true places in time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from media.video_read import decode_frames, frame_times

ROOM = 4
"""Frames are held at up to this many times the judge's pixel budget; larger ones are shrunk as they are decoded."""


@dataclass(frozen=True)
class SampledFrames:
    """The frames that are shown. `frames`: uint8 `[shown, height, width, 3]`; `indices`: their places among `total`."""

    frames: np.ndarray
    indices: tuple[int, ...]
    total: int
    fps: float

    def metadata(self) -> dict:
        """Qwen3-VL's video metadata, a fresh dict each time (processors extend the index list in place).

        The timestamps in the prompt come from `frames_indices / fps`, so they stay true when frames are left out.
        """
        height, width = self.frames.shape[1:3]
        return {
            "total_num_frames": self.total,
            "fps": self.fps,
            "duration": self.total / self.fps,
            "width": width,
            "height": height,
            "video_backend": "numpy",
            "frames_indices": list(self.indices),
        }


def sample_frames(video: np.ndarray, *, fps: float, count: int) -> SampledFrames:
    """At most `count` frames, spread evenly over the whole video, first and last among them; none is shown twice.

    `video`: uint8 `[frames, height, width, 3]`. Raises ValueError for anything else, for a video of fewer than two
    frames (the model reads frames in twos, and one frame has no motion) and for an fps that is not positive.
    """
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(f"a video must be uint8 [frames, height, width, 3], got {video.dtype} {list(video.shape)}")
    if len(video) < 2:
        raise ValueError(f"a video must have at least 2 frames to be judged, got {len(video)}")
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"frames per second must be positive, got {fps}")
    indices = spread(len(video), count)
    return SampledFrames(np.ascontiguousarray(video[indices]), tuple(indices.tolist()), len(video), float(fps))


def spread(total: int, count: int) -> np.ndarray:
    """Which of `total` frames are shown: `[min(count, total)]`, ascending, first and last among them.

    Raises ValueError if fewer than two are to be shown.
    """
    if count < 2:
        raise ValueError(f"at least 2 frames must be shown of a video, got {count}")
    return np.linspace(0, total - 1, min(count, total)).round().astype(int)


def every(total: int, count: int) -> np.ndarray:
    """Every n-th of `total` frames, from the first on: at least `count` of them, if there are so many."""
    return np.arange(0, total, max(1, (total - 1) // max(1, count - 1)))


def read_frames(path: str | Path, *, count: int, max_pixels: int, evenly: bool = False) -> SampledFrames:
    """`count` frames spread evenly over the file's true duration (all of a shorter file's), none shown twice.

    However long and large the file is, only the frames that are shown are held. evenly: as `every` picks them, so that
    as many frames lie between any two neighbours.

    `max_pixels`: the judge's budget for one video. The times that the judge is told are the file's own: a variable
    frame rate is put on the grid of its average rate, so a time is at most half a frame off.

    Raises as `frame_times` and `decode_frames` (`media/video_read.py`) do.
    """
    times = frame_times(path)
    places, pick = times.seconds * times.fps, every if evenly else spread
    nearest = np.unique([np.abs(places - place).argmin() for place in pick(len(places), count)])
    budget = ROOM * max_pixels // len(nearest)

    def within(width: int, height: int) -> tuple[int, int]:
        """Both shrunk alike until their product fits the budget."""
        share = min(1.0, (budget / (width * height)) ** 0.5)
        return max(1, int(width * share)), max(1, int(height * share))

    frames = decode_frames(path, times, nearest.tolist(), size=within)
    return SampledFrames(frames, tuple(places[nearest].round().astype(int).tolist()), len(places), times.fps)
