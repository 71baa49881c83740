# pyright: reportPrivateImportUsage=false
import io
from pathlib import Path

import av
import numpy as np
import pytest

from media.video_read import read_video
from media.video_write import mp4_bytes, write_mp4


def moving_square() -> np.ndarray:
    frames = np.full((9, 32, 48, 3), 40, np.uint8)
    for index in range(9):
        frames[index, 8:24, 4 + 2 * index : 20 + 2 * index] = (200, 60, 90)
    return frames


def test_a_video_comes_back_as_it_was(tmp_path: Path):
    frames = moving_square()
    write_mp4(tmp_path / "v.mp4", frames, fps=8.0)
    back, fps = read_video(tmp_path / "v.mp4")
    assert fps == 8.0
    assert back.shape == frames.shape and back.dtype == np.uint8
    # yuv420p halves the colour resolution: the inside of the square is near, only its rim is not.
    inside = np.abs(back[4, 10:22, 15:25].astype(int) - (200, 60, 90))
    assert inside.max() <= 6
    assert np.abs(back[:, :6].astype(int) - 40).max() <= 6


def test_the_file_is_what_browsers_play():
    with av.open(io.BytesIO(mp4_bytes(moving_square(), fps=23.976))) as container:
        stream = container.streams.video[0]
        assert "mp4" in container.format.name
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate is not None and float(stream.average_rate) == pytest.approx(23.976, abs=1e-3)
        assert stream.frames == 9


def test_scale_repeats_pixels(tmp_path: Path):
    frames = moving_square()
    write_mp4(tmp_path / "v.mp4", frames, fps=8.0, scale=4)
    back, _ = read_video(tmp_path / "v.mp4")
    assert back.shape == (9, 128, 192, 3)
    assert np.abs(back[:, 1::4, 1::4].astype(int) - frames).mean() < 3


@pytest.mark.parametrize("height", [64, 720])
def test_colours_come_back_whatever_the_size(height: int, tmp_path: Path):
    """Players take a large file that names no colour matrix for BT.709, and a small one for BT.601."""
    frames = np.full((2, height, 1280, 3), (220, 40, 60), np.uint8)
    write_mp4(tmp_path / "v.mp4", frames, fps=8.0)
    assert np.abs(read_video(tmp_path / "v.mp4")[0].astype(int) - frames).max() <= 4


def test_odd_sides_need_a_scale():
    odd = np.zeros((2, 15, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="even sides, got 16 x 15"):
        mp4_bytes(odd, fps=8.0)
    assert mp4_bytes(odd, fps=8.0, scale=2)


@pytest.mark.parametrize("shape", [(0, 16, 16, 3), (3, 16, 16), (3, 3, 16, 16)])
def test_what_is_no_video_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"a video is uint8 \[frames, height, width, 3\]"):
        mp4_bytes(np.zeros(shape, np.uint8), fps=8.0)


def test_files_that_are_no_video_are_named(tmp_path: Path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match=r"text.mp4: not a video that can be decoded"):
        read_video(tmp_path / "text.mp4")
    with pytest.raises(FileNotFoundError, match=r"no video file .*none.mp4"):
        read_video(tmp_path / "none.mp4")
