import numpy as np
import pytest

from examples.miniature.meter import measure
from examples.miniature.world import FPS, Scene, draw_any, render
from ranker.frames import SampledFrames, sample_frames
from ranker.training.slow_motion import least_frames, slow_motion_pair


def numbered(frames: int, *, shown: int) -> SampledFrames:
    """Each frame is filled with its own number, so that what was picked can be read off the pixels."""
    video = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    return sample_frames(video, fps=8.0, count=shown)


def shown_of(part: SampledFrames) -> list[int]:
    return part.frames[:, 0, 0, 0].tolist()


def test_real_frames_alone_where_the_source_has_them() -> None:
    """81 frames, of which a judge is shown 21: a standard part takes every fourth, a slow one each."""
    standard, slow = slow_motion_pair(numbered(81, shown=81), count=21, factor=4, start=0.0)
    assert shown_of(standard) == list(range(0, 81, 4)) and shown_of(slow) == list(range(21))
    assert slow.metadata() == standard.metadata()  # told to be shown at the same times
    # A part of 21 frames, four of the source's apart: 2 a second, and ten and a half seconds.
    assert standard.metadata()["duration"] == 10.5 and standard.fps == 2.0


def test_at_the_papers_length_both_parts_have_all_40_frames() -> None:
    """Of 81: real ones for the factor 2, blended alike for 3 and 4, which would need 118 and 157."""
    for factor in (2.0, 3.0, 4.0):
        parts = slow_motion_pair(numbered(81, shown=81), count=40, factor=factor, start=1.0)
        assert [len(part.frames) for part in parts] == [40, 40]
    standard, slow = slow_motion_pair(numbered(81, shown=81), count=40, factor=2.0, start=1.0)
    assert (shown_of(standard), shown_of(slow)) == (list(range(2, 81, 2)), list(range(41, 81)))


def blended(part: SampledFrames) -> list[float]:
    """The share of the later neighbour in each frame, of a source whose frames are 20 apart."""
    return [round(float(frame.mean()) % 20 / 20, 2) for frame in part.frames]


@pytest.mark.parametrize("factor", [1.5, 2.0, 2.5, 3.0, 4.0])
@pytest.mark.parametrize("start", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("frames", [9, 12])
def test_frame_by_frame_as_much_is_blended_in_both_parts(factor: float, start: float, frames: int) -> None:
    video = (20 * np.arange(frames, dtype=np.uint8))[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    source = sample_frames(video, fps=8.0, count=frames)
    standard, slow = slow_motion_pair(source, count=9, factor=factor, start=start)
    assert blended(standard) == pytest.approx(blended(slow), abs=0.06)  # a pixel is a whole number
    assert np.ptp(standard.frames.mean((1, 2, 3))) == pytest.approx(factor * np.ptp(slow.frames.mean((1, 2, 3))), abs=1)


def test_no_part_of_a_slowed_video_is_blurred_more_than_the_other() -> None:
    """Of 200 drawn videos: how sharp a frame is, the mean of its squared differences, is the same in both parts."""
    rng, sharp = np.random.default_rng(0), []
    for _ in range(200):
        source = sample_frames(render(draw_any(rng)), fps=FPS, count=9)
        pair = slow_motion_pair(source, count=9, factor=float(rng.choice([2, 3, 4])), start=float(rng.random()))
        sharp.append([float(np.square(np.diff(part.frames.astype(float), axis=2)).mean()) for part in pair])
    standard, slow = np.mean(sharp, 0)
    assert slow / standard == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
def test_what_moves_is_slower_by_the_factor_and_no_more_distorted(factor: float) -> None:
    scene = Scene("red", "circle", "right", 8.0, 16.0, 1.8, 0.5)
    standard, slow = slow_motion_pair(sample_frames(render(scene), fps=FPS, count=9), count=9, factor=factor, start=0.5)
    was, now = measure(standard.frames, scene.prompt), measure(slow.frames, scene.prompt)
    assert (was.distorted, now.distorted) == (False, False)
    assert was.motion / now.motion == pytest.approx(factor, rel=0.05)


@pytest.mark.parametrize(
    ("frames", "factor", "start", "says"),
    [
        (9, 1.0, 0.5, "above 1, got 1.0"),
        (9, 2.0, 1.5, "got 1.5"),
        (4, 2.0, 0.5, "slowed 2 times a video needs 5 frames, got 4"),
        (3, 4.0, 0.5, "slowed 4 times a video needs 4 frames, got 3"),
    ],
)
def test_what_cannot_be_slowed_is_refused(frames: int, factor: float, start: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        slow_motion_pair(numbered(frames, shown=frames), count=9, factor=factor, start=start)
    least = least_frames(max(factor, 1.5))
    for part in slow_motion_pair(numbered(least, shown=least), count=9, factor=max(factor, 1.5), start=0.0):
        assert len(part.frames) == 3
