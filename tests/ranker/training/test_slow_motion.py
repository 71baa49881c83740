import numpy as np
import pytest

from examples.miniature.meter import measure
from examples.miniature.world import FPS, Scene, render
from ranker.frames import SampledFrames, sample_frames
from ranker.training.slow_motion import slow_motion_pair


def numbered(frames: int, *, shown: int) -> SampledFrames:
    """Each frame is filled with its own number, so that what was picked can be read off the pixels."""
    video = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    return sample_frames(video, fps=8.0, count=shown)


def test_a_source_with_frames_to_spare_is_slowed_by_dropping_fewer_of_them() -> None:
    standard, slow = slow_motion_pair(numbered(81, shown=81), count=21, factor=4, start=0.0)
    assert standard.frames[:, 0, 0, 0].tolist() == list(range(0, 81, 4))
    assert slow.frames[:, 0, 0, 0].tolist() == list(range(21))
    assert slow.metadata() == standard.metadata()  # told to be shown at the same times


def test_a_short_source_is_interpolated() -> None:
    standard, slow = slow_motion_pair(numbered(9, shown=9), count=9, factor=2, start=1.0)
    assert standard.frames[:, 0, 0, 0].tolist() == list(range(9))
    np.testing.assert_allclose(slow.frames[:, 0, 0, 0], np.linspace(4, 8, 9), atol=0.5)


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
def test_what_moves_is_slower_by_the_factor_and_no_more_distorted(factor: float) -> None:
    scene = Scene("red", "circle", "right", 8.0, 16.0, 1.8, 0.5)
    standard, slow = slow_motion_pair(sample_frames(render(scene), fps=FPS, count=9), count=9, factor=factor, start=0.5)
    was, now = measure(standard.frames, scene.prompt), measure(slow.frames, scene.prompt)
    assert (was.distorted, now.distorted) == (False, False)
    assert was.motion / now.motion == pytest.approx(factor, rel=0.05)


@pytest.mark.parametrize(
    ("frames", "factor", "start", "says"),
    [(9, 1.0, 0.5, "above 1, got 1.0"), (9, 2.0, 1.5, "got 1.5"), (2, 2.0, 0.5, "at least 3 frames, got 2")],
)
def test_what_cannot_be_slowed_is_refused(frames: int, factor: float, start: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        slow_motion_pair(numbered(frames, shown=frames), count=9, factor=factor, start=start)
