"""Which frames of a video the judge sees, with their true places in time."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Footage:
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


def sample_frames(video: np.ndarray, *, fps: float, count: int) -> Footage:
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
    return Footage(np.ascontiguousarray(video[indices]), tuple(indices.tolist()), len(video), float(fps))


def spread(total: int, count: int) -> np.ndarray:
    """Which of `total` frames are shown: `[min(count, total)]`, ascending, first and last among them.

    Raises ValueError where fewer than two are to be shown.
    """
    if count < 2:
        raise ValueError(f"at least 2 frames must be shown of a video, got {count}")
    return np.linspace(0, total - 1, min(count, total)).round().astype(int)
