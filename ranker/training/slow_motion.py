"""Slow-motion negatives: two parts of one video, one shown slower, of identical single-frame quality (paper, C.1).

A generator that barely moves never breaks anything. Without such pairs a judge learns to like it for that. If the slow
part alone had cross-fades in it, a judge could tell it by these, and learn nothing about pace.
"""

import math
from fractions import Fraction

import numpy as np

from ranker.frames import SampledFrames

LEAST_SHOWN = 3
"""Frames of a part: two have no rhythm."""


def spacings(factor: float) -> tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]]:
    """How far apart the frames are that a standard part and a slow one show, in frames of the source: two ways.

    The first has real frames alone: whole numbers whose ratio is the factor. The second blends neighbours, and both
    parts alike: its spacings differ by one frame, so that frame by frame the same share is blended in both. It needs a
    shorter source.
    """
    slower = Fraction(factor).limit_denominator(100)
    real = Fraction(slower.numerator), Fraction(slower.denominator)
    return real, (slower / (slower - 1), 1 / (slower - 1))


def least_frames(factor: float) -> int:
    """Of a source that can be slowed so."""
    return min(math.ceil((LEAST_SHOWN - 1) * standard) for standard, _ in spacings(factor)) + 1


def frames_wanted(factor: float, count: int) -> int:
    """Of a source for `count` real frames in both parts."""
    (standard, _), _ = spacings(factor)
    return int(standard) * (count - 1) + 1


def slow_motion_pair(
    source: SampledFrames, *, count: int, factor: float, start: float
) -> tuple[SampledFrames, SampledFrames]:
    """A part of the video at its own pace, and one `factor` times slower, told to be shown at the same times.

    source: evenly spaced frames. Both parts have `count` frames, or as many as the source allows: real ones, unless
    frames that are blended alike allow more. `start` in [0, 1] says where in the source the parts lie.

    Raises ValueError if factor is not above 1, start is not in [0, 1], or the source has less than `least_frames`.
    """
    total = len(source.frames)
    if not factor > 1:
        raise ValueError(f"a slow-motion factor must be above 1, got {factor}")
    if not 0 <= start <= 1:
        raise ValueError(f"where a slow part starts is a share of what is left, in [0, 1], got {start}")
    if total < least_frames(factor):
        raise ValueError(f"to be slowed {factor:g} times a video needs {least_frames(factor)} frames, got {total}")
    ways = [(min(count, int((total - 1) / way[0]) + 1), way) for way in spacings(factor)]
    shown, steps = max(ways, key=lambda way: way[0])
    stride = source.indices[1] - source.indices[0]
    fps = source.fps / (stride * float(steps[0]))
    standard, slow = (
        SampledFrames(_at(source.frames, _moments(total, shown, step, start)), tuple(range(shown)), shown, fps)
        for step in steps
    )
    return standard, slow


def _moments(total: int, shown: int, step: Fraction, start: float) -> list[Fraction]:
    """Evenly spaced from a whole frame on, so that two spacings whose difference is whole have the same fractions."""
    room = math.floor(total - 1 - step * (shown - 1))
    return [round(start * room) + step * place for place in range(shown)]


def _at(frames: np.ndarray, moments: list[Fraction]) -> np.ndarray:
    """The video at these moments, in frames: its own frame, or a blend of two neighbours."""
    before = [math.floor(moment) for moment in moments]
    after = [math.ceil(moment) for moment in moments]
    parts = [float(moment - place) for moment, place in zip(moments, before, strict=True)]
    part = np.array(parts, dtype=np.float32)[:, None, None, None]
    return np.rint(frames[before] * (1 - part) + frames[after] * part).astype(np.uint8)
