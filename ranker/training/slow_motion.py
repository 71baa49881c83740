"""Slow-motion negatives: the same video beside a slowed part of it, of equal single-frame quality (paper, C.1).

A generator that barely moves never breaks anything. Without such pairs a judge learns to like it for that.
"""

import numpy as np

from ranker.frames import SampledFrames, spread

LEAST_FRAMES = 3
"""Of a video that is slowed."""

REAL = 0.1
"""A moment this near to a frame of the source, in frames, is that frame; others are blended from the two around it."""


def slow_motion_pair(
    source: SampledFrames, *, count: int, factor: float, start: float
) -> tuple[SampledFrames, SampledFrames]:
    """The video at its own pace and at a `factor` slower one, `count` frames each, shown at the same times.

    Both are made of `source`'s frames, best of `count * factor` or more of them: the standard one by dropping frames,
    the slow one from a stretch 1 / factor as long, by dropping fewer and, if the source has too few, by
    interpolating between neighbours. `start` in [0, 1] says where in the video the stretch lies.

    Raises ValueError if factor is not above 1, start is not in [0, 1], or the source has fewer than three frames.
    """
    last = len(source.frames) - 1
    if not factor > 1:
        raise ValueError(f"a slow-motion factor must be above 1, got {factor}")
    if not 0 <= start <= 1:
        raise ValueError(f"where a slow stretch starts is a share of what is left, in [0, 1], got {start}")
    if last + 1 < LEAST_FRAMES:
        raise ValueError(f"a slowed video needs at least {LEAST_FRAMES} frames, got {last + 1}")
    kept = spread(last + 1, count)
    stretch = last / factor
    moments = start * (last - stretch) + np.linspace(0, stretch, len(kept))
    times = tuple(source.indices[index] for index in kept)
    return (
        SampledFrames(source.frames[kept], times, source.total, source.fps),
        SampledFrames(_at(source.frames, moments), times, source.total, source.fps),
    )


def _at(frames: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The video at these moments, in frames: its own frame, or a blend of two neighbours."""
    near = moments.round()
    moments = np.where(np.abs(moments - near) <= REAL, near, moments)
    before = np.minimum(moments.astype(int), len(frames) - 2)
    part = (moments - before)[:, None, None, None].astype(np.float32)
    mixed = frames[before] * (1 - part) + frames[before + 1] * part
    return np.rint(mixed).astype(np.uint8)
