"""A video file as the judge sees it: of the longest and largest file, only the frames that are shown are ever held."""

from pathlib import Path

import numpy as np

from media.video_read import decode_frames, frame_times
from ranker.frames import Footage, spread

ROOM = 4
"""Frames are held at up to this many times the judge's pixel budget; larger ones are shrunk as they are decoded."""


def read_footage(path: str | Path, *, count: int, max_pixels: int) -> Footage:
    """`count` frames spread evenly over the file's true duration (all of a shorter file's), none shown twice.

    `max_pixels`: the judge's budget for one video. The times that the judge is told are the file's own: a variable
    frame rate is put on the grid of its average rate, so a time is at most half a frame off.

    Raises as `frame_times` and `decode_frames` (`media/video_read.py`) do.
    """
    times = frame_times(path)
    places = times.seconds * times.fps
    nearest = np.unique([np.abs(places - place).argmin() for place in spread(len(places), count)])
    budget = ROOM * max_pixels // len(nearest)

    def within(width: int, height: int) -> tuple[int, int]:
        """Both shrunk alike until their product fits the budget."""
        share = min(1.0, (budget / (width * height)) ** 0.5)
        return max(1, int(width * share)), max(1, int(height * share))

    frames = decode_frames(path, times.ticks[nearest].tolist(), size=within)
    return Footage(frames, tuple(places[nearest].round().astype(int).tolist()), len(places), times.fps)
