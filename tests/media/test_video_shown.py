"""What is read is what ffmpeg shows of the same file: order, number, place on the screen, colour."""

# pyright: reportPrivateImportUsage=false

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from media.video_read import frame_times, read_clip, read_video
from ranker.frames import read_frames

FRAMES, HEIGHT, WIDTH, RATE = 24, 48, 64, 8
X264, X265 = "-c:v libx264", "-c:v libx265 -x265-params log-level=none"


def numbered(frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """The ground's brightness counts the frames; the upper left corner is white, the upper right one blue."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[:] = (20 + 8 * np.arange(frames, dtype=np.uint8))[:, None, None, None]
    video[:, : height // 3, : width // 4] = 255
    video[:, : height // 3, -width // 4 :] = (0, 0, 255)
    return video


def ffmpeg(*arguments: str, stdin: bytes = b"") -> bytes:
    command = [get_ffmpeg_exe(), "-v", "error", "-threads", "1", "-y", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert not done.returncode, done.stderr.decode()
    return done.stdout


def coded(path: Path, options: str, video: np.ndarray | None = None, *, rate: str = str(RATE)) -> Path:
    video = numbered() if video is None else video
    size = f"{video.shape[2]}x{video.shape[1]}"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "-"]
    pix_fmt = [] if "-pix_fmt" in options else ["-pix_fmt", "yuv420p"]
    ffmpeg(*raw, *pix_fmt, *options.split(), str(path), stdin=video.tobytes())
    return path


def as_ffmpeg_shows(path: Path, height: int, width: int, *, filters: str = "null") -> np.ndarray:
    options = ["-map", "0:v:0", "-fps_mode", "passthrough", "-vf", filters, "-sws_flags", "area"]
    shown = ffmpeg("-i", str(path), *options, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(shown, np.uint8).reshape(-1, height, width, 3)


def same(read: np.ndarray, shown: np.ndarray) -> None:
    """The two decoders may round differently, not more: the step from frame to frame is 8."""
    assert read.shape == shown.shape
    assert np.abs(read.astype(int) - shown).mean(axis=(1, 2, 3)).max() < 2


def seconds_of_ffmpeg(path: Path) -> np.ndarray:
    """When each frame is shown, by ffmpeg's own list of decoded frames."""
    listed = ffmpeg(
        "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framecrc", "-enc_time_base", "1:90000", "-"
    )
    lines = [line.split(",") for line in listed.decode().splitlines() if line[:1] != "#"]
    times = np.array([int(line[2]) for line in lines]) / 90000
    return times - times[0]


FILES = {
    "plain.mp4": X264 + " -bf 0",
    "b.mp4": X264 + " -bf 2",
    "b.mov": X264 + " -bf 3",
    "b.mkv": X264 + " -bf 2",
    "b.avi": X264 + " -bf 2",
    "b.ts": X264 + " -bf 2",
    "b.flv": X264 + " -bf 2",
    "b.h264": X264 + " -bf 2",
    "open_gop.mkv": X264 + " -bf 2 -g 6 -x264-params open-gop=1",
    "field.ts": X264 + " -bf 2 -flags +ilme+ildct",
    "pieces.mp4": X264 + " -bf 2 -g 8 -movflags +frag_keyframe+empty_moov",
    "hevc.mp4": X265 + " -bf 3",
    "hevc.mkv": X265 + " -bf 3",
    "hevc.ts": X265 + " -bf 3",
    "b.h265": X265 + " -bf 3",
    "hidden.webm": "-c:v libvpx -auto-alt-ref 1 -lag-in-frames 16 -b:v 200k",
    "vp9.webm": "-c:v libvpx-vp9 -auto-alt-ref 1 -lag-in-frames 16 -b:v 200k",
    "vp9.mp4": "-c:v libvpx-vp9 -b:v 200k",
    "mpeg4.avi": "-c:v mpeg4 -bf 2 -q:v 2",
    "mpeg4.mp4": "-c:v mpeg4 -bf 2 -q:v 2",
    "mpeg4.mkv": "-c:v mpeg4 -bf 2 -q:v 2",
    "mpeg2.ts": "-c:v mpeg2video -r 25 -bf 2 -q:v 2",
    "mpeg2.mpg": "-c:v mpeg2video -r 25 -bf 2 -q:v 2",
    "mjpeg.avi": "-c:v mjpeg -pix_fmt yuvj420p -q:v 2",
    "mjpeg.mov": "-c:v mjpeg -pix_fmt yuvj422p -q:v 2",
    "mjpeg.mkv": "-c:v mjpeg -pix_fmt yuvj420p -q:v 2",
    "raw.avi": "-c:v rawvideo",
    "raw.y4m": "",
    "prores.mov": "-c:v prores_ks -pix_fmt yuv422p10le",
    "rle.mov": "-c:v qtrle -pix_fmt rgb24",
    "ffv1.mkv": "-c:v ffv1",
    "wmv2.wmv": "-c:v wmv2 -q:v 2",
}


@pytest.mark.parametrize("name", FILES)
def test_every_container_and_codec_gives_the_frames_in_the_order_shown(name: str, tmp_path: Path) -> None:
    path = coded(tmp_path / name, FILES[name])
    read, fps = read_video(path)
    same(read, as_ffmpeg_shows(path, HEIGHT, WIDTH))
    if "-r 25" not in FILES[name]:  # MPEG-2 knows no 8 frames a second, so frames are repeated
        assert len(read) == FRAMES and np.abs(read[:, -4, 8, 0].astype(int) - numbered()[:, -4, 8, 0]).max() < 8
    if not name.endswith(("h264", "h265")):  # a raw stream has no times
        times = frame_times(path)
        np.testing.assert_allclose(times.seconds, seconds_of_ffmpeg(path), atol=2e-3)
        assert fps == pytest.approx((len(read) - 1) / times.seconds[-1], rel=2e-3)


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """The mp4 with this display matrix in its track header, in 16.16."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert data[at : at + 4] == struct.pack(">i", 1 << 16)
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def mirrored_and_turned(video: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """By the definition in ISO 14496-12: a point (x, y) goes to (a x + c y, b x + d y), all moved into view."""
    y, x = np.mgrid[: video.shape[1], : video.shape[2]]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    shown = np.zeros((len(video), down.max() + 1, right.max() + 1, 3), np.uint8)
    shown[:, down, right] = video
    return shown


MATRICES = {
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "left-right": (-1, 0, 0, 1),
    "up-down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "across": (0, -1, -1, 0),
}


@pytest.mark.parametrize("turn", MATRICES)
def test_a_video_is_turned_and_mirrored_as_its_display_matrix_says(turn: str, tmp_path: Path) -> None:
    path = with_matrix(coded(tmp_path / "v.mp4", X264 + " -crf 8"), *MATRICES[turn])
    expected = mirrored_and_turned(numbered(), *MATRICES[turn])
    read, _ = read_video(path)
    assert np.abs(read.astype(int) - expected).mean() < 4
    same(read, as_ffmpeg_shows(path, *expected.shape[1:3]))


def test_a_video_that_is_turned_by_another_angle_is_refused(tmp_path: Path) -> None:
    path = with_matrix(coded(tmp_path / "v.mp4", X264), 1, 1, -1, 1)
    with pytest.raises(ValueError, match=r"v\.mp4: is to be turned by 45 degrees; only 90, 180 and 270 are"):
        frame_times(path)


@pytest.mark.parametrize(("aspect", "width"), [("2/1", 128), ("1/2", 32), ("12/11", 70)])
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi", "v.ts"])
def test_pixels_that_are_not_square_make_the_picture_wider_or_narrower(
    name: str, aspect: str, width: int, tmp_path: Path
) -> None:
    path = coded(tmp_path / name, f"{X264} -bf 2 -vf setsar={aspect}")
    read, _ = read_video(path)
    same(read, as_ffmpeg_shows(path, HEIGHT, width, filters=f"scale={width}:{HEIGHT}:flags=area"))


def test_a_turned_video_with_oblong_pixels_covers_what_is_wanted(tmp_path: Path) -> None:
    """64 x 48 with pixels twice as wide is shown as 128 x 48, turned as 48 x 128; the white corner is at the right."""
    path = with_matrix(coded(tmp_path / "v.mp4", X264 + " -vf setsar=2/1"), *MATRICES["90"])
    assert read_video(path)[0].shape == (FRAMES, 128, 48, 3)
    clip = read_clip(path, num_frames=9, fps=RATE, height=256, width=96)
    assert clip.shape == (9, 256, 96, 3)
    assert clip[:, 10, -10].min() > 240 and clip[:, 10, 10].max() < 110
    shown = read_frames(path, count=4, max_pixels=2**20)
    assert shown.metadata()["width"] == 48 and shown.metadata()["height"] == 128


@pytest.mark.parametrize("name", ["v.mp4", "v.mov", "v.mkv"])
@pytest.mark.parametrize("start", [0.5, 1.3, 2.0])
def test_a_cut_without_encoding_shows_what_a_player_shows(name: str, start: float, tmp_path: Path) -> None:
    whole = coded(tmp_path / f"whole{name[1:]}", X264 + " -bf 2 -g 12")
    ffmpeg("-ss", str(start), "-i", str(whole), "-c", "copy", str(tmp_path / name))
    read, _ = read_video(tmp_path / name)
    same(read, as_ffmpeg_shows(tmp_path / name, HEIGHT, WIDTH))
    if not name.endswith("mkv"):  # which knows no edit list: it begins at the key frame before
        assert len(read) == FRAMES - int(np.ceil(start * RATE))


def test_times_of_a_variable_rate_and_the_last_frames_own_length_are_the_files(tmp_path: Path) -> None:
    """Of 24 frames every third is kept, and the last one for ten seconds more; the average rate is a lie."""
    uneven = f"{X264} -bf 2 -fps_mode vfr -vf select='not(mod(n\\,3))+gt(n\\,18)',tpad=stop=1:stop_duration=10"
    for name in ("v.mp4", "v.mkv", "v.avi", "v.ts"):
        path = coded(tmp_path / name, uneven if name == "v.mp4" else uneven.split(",tpad")[0])
        times = frame_times(path)
        read, _ = read_video(path)
        same(read, as_ffmpeg_shows(path, HEIGHT, WIDTH))
        np.testing.assert_allclose(times.seconds, seconds_of_ffmpeg(path), atol=2e-3)


@pytest.mark.parametrize("offset", ["5", "-0.4"])
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts"])
def test_when_a_file_starts_does_not_matter(name: str, offset: str, tmp_path: Path) -> None:
    whole = coded(tmp_path / "whole.mp4", X264 + " -bf 2")
    ffmpeg("-itsoffset", offset, "-i", str(whole), "-c", "copy", "-copyts", str(tmp_path / name))
    read, fps = read_video(tmp_path / name)
    same(read, as_ffmpeg_shows(tmp_path / name, HEIGHT, WIDTH))
    assert fps == pytest.approx(RATE, rel=1e-3)
