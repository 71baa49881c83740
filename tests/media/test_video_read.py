# pyright: reportPrivateImportUsage=false
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from media.video_read import frame_times, read_clip


def numbered(frames: int, height: int = 16, width: int = 16) -> np.ndarray:
    """Each frame is filled with its own number, so that what was picked can be read off the pixels."""
    return np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, height, width, 3), np.uint8)


def written(path: Path, video: np.ndarray, *, milliseconds: list[int], rate: int = 8) -> Path:
    """FFV1 in RGB, each frame at its time."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        container.start_encoding()
        for picture, time in zip(video, milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def evenly(frames: int, fps: float, start: int = 0) -> list[int]:
    return [start + round(1000 * index / fps) for index in range(frames)]


@pytest.mark.parametrize(
    ("frames", "fps", "wanted", "at", "shown"),
    [
        (20, 16, 9, 16, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (40, 24, 9, 8, [0, 3, 6, 9, 12, 15, 18, 21, 24]),
        (40, 30, 5, 16, [0, 2, 4, 6, 8]),  # of 1.875, 3.75, 5.625, 7.5: the nearest, the earlier where two are
    ],
)
def test_each_moment_gets_its_nearest_frame(tmp_path, frames, fps, wanted, at, shown):
    path = written(tmp_path / "v.mkv", numbered(frames), milliseconds=evenly(frames, fps), rate=fps)
    clip = read_clip(path, num_frames=wanted, fps=at, height=16, width=16)
    seconds = np.array(evenly(frames, fps)) / 1000
    nearest = [int(np.abs(seconds - moment / at).argmin()) for moment in range(wanted)]
    assert clip[:, 0, 0, 0].tolist() == nearest
    assert np.abs(np.array(nearest) - shown).max() <= (1 if fps == 30 else 0)


def test_time_counts_from_the_first_frame_and_an_uneven_rate_is_followed(tmp_path):
    times = [5000, 5010, 5020, 5125, 5250, 5260, 5375, 5500, 5625]
    path = written(tmp_path / "v.mkv", numbered(9), milliseconds=times)
    assert read_clip(path, num_frames=5, fps=8, height=16, width=16)[:, 0, 0, 0].tolist() == [0, 3, 4, 6, 7]


@pytest.mark.parametrize(("frames", "fps"), [(8, 8), (9, 4), (5, 30)])
def test_a_video_that_is_too_short_or_too_slow_is_refused(tmp_path, frames, fps):
    path = written(tmp_path / "v.mkv", numbered(frames), milliseconds=evenly(frames, fps), rate=fps)
    with pytest.raises(ValueError, match=r"v\.mkv: . frames over .* are not the 9 different frames at 8 a second"):
        read_clip(path, num_frames=9, fps=8, height=16, width=16)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 48), (48, 16), (40, 56), (9, 33)])
def test_the_picture_covers_the_frame_and_its_middle_stays(tmp_path, height, width):
    """Left half black, right half white, upper half red: wherever it is cut, both lines stay in the middle."""
    video = np.zeros((9, 24, 40, 3), np.uint8)
    video[:, :, 20:] = 255
    video[:, :12, :, 0] = 255
    path = written(tmp_path / "v.mkv", video, milliseconds=evenly(9, 8))
    clip = read_clip(path, num_frames=9, fps=8, height=height, width=width)
    assert clip.shape == (9, height, width, 3)
    green, red = clip[0, :, :, 1].astype(int), clip[0, :, :, 0].astype(int)
    assert abs((green[height // 2] > 127).sum() - width / 2) <= 1
    assert abs((red[:, 0] > 127).sum() - height / 2) <= 1


def test_only_what_is_shown_is_decoded(tmp_path):
    """A file that is damaged behind its first seconds serves them; one that is cut off is refused as a whole."""
    path = written(tmp_path / "v.mkv", numbered(200, 64, 64), milliseconds=evenly(200, 8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is cut off"):
        read_clip(path, num_frames=9, fps=8, height=64, width=64)
    with pytest.raises(FileNotFoundError, match="no video file"):
        frame_times(tmp_path / "none.mkv")
