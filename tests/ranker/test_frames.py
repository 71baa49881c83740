import numpy as np
import pytest
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from ranker.frames import sample_frames


def video(frames: int) -> np.ndarray:
    """Each frame is filled with its own index, so that what was picked can be read off the pixels."""
    return np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)


def test_frames_are_spread_over_the_whole_video_and_tell_where_they_stood() -> None:
    footage = sample_frames(video(9), fps=8.0, count=5)
    assert footage.indices == (0, 2, 4, 6, 8)
    assert footage.frames[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert footage.metadata() == {
        "total_num_frames": 9,
        "fps": 8.0,
        "duration": 1.125,
        "width": 6,
        "height": 4,
        "video_backend": "numpy",
        "frames_indices": [0, 2, 4, 6, 8],
    }


@pytest.mark.parametrize("frames", [40, 81, 121, 200])
def test_forty_frames_are_those_that_the_model_was_taught_on(frames: int) -> None:
    processor = Qwen3VLVideoProcessor()
    expected = processor.sample_frames(VideoMetadata(total_num_frames=frames, fps=16.0), num_frames=40)
    assert list(sample_frames(video(frames), fps=16.0, count=40).indices) == expected.tolist()


def test_a_short_video_is_shown_whole_and_no_frame_twice() -> None:
    assert sample_frames(video(7), fps=8.0, count=40).indices == (0, 1, 2, 3, 4, 5, 6)


def test_metadata_is_fresh_each_time() -> None:
    footage = sample_frames(video(9), fps=8.0, count=9)
    footage.metadata()["frames_indices"].append(8)  # as Qwen3-VL's processor does with an odd count
    assert len(footage.metadata()["frames_indices"]) == 9


@pytest.mark.parametrize(
    ("bad", "fps", "count", "says"),
    [
        (np.zeros((9, 4, 4, 3), np.float32), 8.0, 9, "float32"),
        (np.zeros((9, 4, 4), np.uint8), 8.0, 9, r"\[9, 4, 4\]"),
        (np.zeros((9, 4, 4, 4), np.uint8), 8.0, 9, r"\[9, 4, 4, 4\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), 8.0, 9, r"\[0, 4, 4, 3\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), 8.0, 9, "at least 2 frames"),
        (np.zeros((9, 4, 4, 3), np.uint8), 8.0, 1, "shown of a video, got 1"),
        (np.zeros((9, 4, 4, 3), np.uint8), 0.0, 9, "positive, got 0.0"),
        (np.zeros((9, 4, 4, 3), np.uint8), float("nan"), 9, "positive, got nan"),
    ],
)
def test_what_is_no_video_is_refused(bad: np.ndarray, fps: float, count: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sample_frames(bad, fps=fps, count=count)
