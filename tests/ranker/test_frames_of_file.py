# pyright: reportPrivateImportUsage=false
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from media.video_write import write_mp4
from ranker import frames as video_file
from ranker.frames import read_frames, sample_frames


def numbered(frames: int, *, height: int = 16, width: int = 16) -> np.ndarray:
    """Each frame is filled with its own number, so that what was picked can be read off the pixels."""
    return (np.arange(frames) % 256).astype(np.uint8)[:, None, None, None] * np.ones((1, height, width, 3), np.uint8)


def write_lossless(path: Path, video: np.ndarray, *, times: list[int] | None = None, rate: int = 8) -> Path:
    """FFV1 in RGB; `times`: each frame's, in milliseconds, in place of an even rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "bgr0"
        if times:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        container.start_encoding()
        for index, picture in enumerate(video):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("frames", "rate"), [(81, 16), (121, 24), (40, 30), (9, 8), (33, 10)])
def test_a_file_is_shown_as_the_same_video_in_memory(frames: int, rate: int, tmp_path: Path) -> None:
    video = numbered(frames)
    expected = sample_frames(video, fps=rate, count=40)
    footage = read_frames(write_lossless(tmp_path / "v.mkv", video, rate=rate), count=40, max_pixels=2**20)
    assert footage.metadata() == expected.metadata()
    np.testing.assert_array_equal(footage.frames, expected.frames)


def test_a_variable_frame_rate_is_sampled_evenly_in_time_and_tells_true_times(tmp_path: Path) -> None:
    # Twenty frames in the first second, then five in the next four.
    times = [50 * index for index in range(20)] + [1000 + 1000 * index for index in range(5)]
    path = write_lossless(tmp_path / "v.mkv", numbered(25), times=times)
    footage = read_frames(path, count=6, max_pixels=2**20)
    shown = footage.frames[:, 0, 0, 0]
    told = np.array(footage.indices) / footage.fps
    assert np.abs(told - np.array(times)[shown] / 1000).max() <= 0.5 / footage.fps + 1e-9
    assert told.tolist() == pytest.approx([0, 1, 2, 3, 4, 5], abs=0.5 / footage.fps)


def test_odd_sizes_are_read(tmp_path: Path) -> None:
    path = write_lossless(tmp_path / "v.mkv", numbered(5, height=33, width=47))
    assert read_frames(path, count=4, max_pixels=2**20).frames.shape == (4, 33, 47, 3)


def test_what_is_far_larger_than_the_judge_looks_at_is_shrunk_as_it_is_decoded(tmp_path: Path) -> None:
    """A hundred times the pixel budget: what is held stays within four times of it."""
    budget = 8 * 64 * 36
    path = write_lossless(tmp_path / "v.mkv", numbered(30, height=360, width=640))
    footage = read_frames(path, count=8, max_pixels=budget)
    assert footage.frames.shape == (8, 72, 128, 3)
    assert footage.frames[:, 0, 0, 0].tolist() == [0, 4, 8, 12, 17, 21, 25, 29]


def test_only_shown_frames_are_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lossless(tmp_path / "v.mkv", numbered(900))
    sized: list[int] = []
    real = video_file.decode_frames

    def counted(path, times, places, *, size):
        return real(path, times, places, size=lambda *given: sized.append(1) or size(*given))

    monkeypatch.setattr(video_file, "decode_frames", counted)
    assert len(read_frames(path, count=5, max_pixels=2**20).frames) == len(sized) == 5


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ValueError, match=r"text\.mp4: not a video"):
        read_frames(tmp_path / "text.mp4", count=8, max_pixels=2**20)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"empty\.mp4: is empty"):
        read_frames(tmp_path / "empty.mp4", count=8, max_pixels=2**20)
    with pytest.raises(FileNotFoundError, match=r"no video file .*none\.mp4"):
        read_frames(tmp_path / "none.mp4", count=8, max_pixels=2**20)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match=r"sound\.wav: holds no video stream"):
        read_frames(tmp_path / "sound.wav", count=8, max_pixels=2**20)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.avi"])
def test_a_truncated_file_is_refused(name: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / name
    video = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    write_mp4(path, video, fps=8.0) if name == "v.mp4" else write_lossless(path, video)
    assert len(read_frames(path, count=8, max_pixels=2**20).frames) == 8
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=rf"{name}: (is cut off|is damaged|not a video)"):
        read_frames(path, count=8, max_pixels=2**20)


@pytest.mark.parametrize("frames", [0, 1])
def test_one_frame_is_no_video(frames: int, tmp_path: Path) -> None:
    path = write_lossless(tmp_path / "v.mkv", numbered(frames))
    with pytest.raises(ValueError, match=r"v\.mkv: (holds [01] frames|not a video|holds no video)"):
        read_frames(path, count=8, max_pixels=2**20)


def test_frames_that_no_memory_holds_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lossless(tmp_path / "v.mkv", numbered(4, height=64, width=64))
    monkeypatch.setattr("media.video_read.LARGEST_FRAME", 64 * 63)
    with pytest.raises(ValueError, match=r"v\.mkv: frames of 64 x 64; at most 4,032 pixels"):
        read_frames(path, count=4, max_pixels=2**20)
