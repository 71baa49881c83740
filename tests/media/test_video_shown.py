"""What is read is what ffmpeg shows of the same file: order, number, place on the screen, colour."""

# pyright: reportPrivateImportUsage=false

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from media.video_read import frame_times, frames_apart, read_clip, read_video
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


def test_a_raw_stream_is_shown_at_the_rate_that_it_names(tmp_path: Path) -> None:
    times = frame_times(coded(tmp_path / "v.h264", X264 + " -bf 2", rate="30"))
    assert times.fps == 30 and len(times.ticks) == FRAMES


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


@pytest.mark.parametrize("codec", ["h264", "open", "hevc", "mpeg2"])
@pytest.mark.parametrize("share", [0.2, 0.35, 0.7])
def test_a_recording_that_begins_between_key_frames_shows_what_can_be_decoded(
    codec: str, share: float, tmp_path: Path
) -> None:
    options = {
        "h264": X264 + " -bf 2 -g 8",
        "open": X264 + " -bf 2 -g 8 -x264-params open-gop=1",
        "hevc": X265 + ":keyint=8:open-gop=1",
        "mpeg2": "-c:v mpeg2video -r 25 -bf 2 -g 8",
    }
    noise = np.random.default_rng(0).integers(0, 20, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = coded(tmp_path / "v.ts", options[codec], numbered() // 2 + noise)
    data = path.read_bytes()
    path.write_bytes(data[int(share * len(data)) // 188 * 188 :])
    same(read_video(path)[0], as_ffmpeg_shows(path, HEIGHT, WIDTH))


@pytest.mark.parametrize("name", ["v.mp4", "v.avi"])
def test_damaged_data_in_a_whole_file_is_called_damaged(name: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = coded(tmp_path / name, X264 if name == "v.mp4" else "-c:v mjpeg -pix_fmt yuvj420p", noise)
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(1).integers(len(data) // 3, len(data) * 4 // 5, 60):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name.replace('.', '[.]')}: is damaged"):
        read_video(path)


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


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.mov"])
def test_a_last_frame_that_is_held_is_no_cut(name: str, tmp_path: Path) -> None:
    frames = numbered(12)
    held = np.concatenate([frames, np.repeat(frames[-1:], 80, axis=0)])
    path = coded(tmp_path / name, X264 + " -bf 0 -fps_mode vfr -vf mpdecimate=max=200:hi=400:lo=200:frac=0.1", held)
    read, fps = read_video(path)
    assert len(read) < 20 and len(frame_times(path).ticks) == len(read)
    same(read, as_ffmpeg_shows(path, HEIGHT, WIDTH))
    assert fps <= RATE


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["v.mp4", "fast.mp4", "v.mkv", "v.avi", "v.webm"])
def test_a_file_that_is_cut_off_says_so(name: str, kept: float, tmp_path: Path) -> None:
    options = "-c:v libvpx-vp9 -b:v 300k" if name == "v.webm" else X264 + " -bf 2"
    video = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = coded(tmp_path / name, options + (" -movflags +faststart" if name == "fast.mp4" else ""), video)
    assert len(frame_times(path).ticks) == FRAMES
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    says = "not a video that can be decoded" if name == "v.mp4" else "is cut off: it (has .* bytes|holds .* frames)"
    with pytest.raises(ValueError, match=rf"{name}: {says}"):
        frame_times(path)


def test_a_cover_picture_is_not_the_video_and_the_default_stream_is(tmp_path: Path) -> None:
    white = np.full((1, 200, 200, 3), 255, np.uint8)
    video, cover = coded(tmp_path / "v.mp4", X264), coded(tmp_path / "cover.png", "-pix_fmt rgb24", white)
    other = coded(tmp_path / "other.mp4", X264, np.ascontiguousarray(numbered()[:, ::-1]))
    both = ["-map", "0", "-map", "1", "-c", "copy"]
    ffmpeg("-i", str(cover), "-i", str(video), *both, "-disposition:v:0", "attached_pic", str(tmp_path / "a.mp4"))
    same(read_video(tmp_path / "a.mp4")[0], as_ffmpeg_shows(video, HEIGHT, WIDTH))
    first = ["-disposition:v:0", "0", "-disposition:v:1", "default"]
    ffmpeg("-i", str(video), "-i", str(other), *both, *first, str(tmp_path / "two.mkv"))
    same(read_video(tmp_path / "two.mkv")[0], as_ffmpeg_shows(other, HEIGHT, WIDTH))
    sound = ["-f", "lavfi", "-i", "sine=duration=1", "-i", str(cover), "-map", "0", "-map", "1", "-c:v", "copy"]
    ffmpeg(*sound, "-disposition:v:0", "attached_pic", str(tmp_path / "song.m4a"))
    with pytest.raises(ValueError, match=r"song\.m4a: holds no video stream, only a cover picture"):
        frame_times(tmp_path / "song.m4a")


@pytest.mark.parametrize("name", ["gray.mov", "gray.mkv"])
def test_transparent_pixels_lie_on_black(name: str, tmp_path: Path) -> None:
    """Half of a white picture is all transparent, a quarter of it half so."""
    rgba = np.full((4, 16, 32, 4), 255, np.uint8)
    rgba[:, :, :16, 3], rgba[:, :, 16:24, 3] = 0, 128
    raw = ["-f", "rawvideo", "-pix_fmt", "rgba", "-s", "32x16", "-r", "8", "-i", "-"]
    ffmpeg(*raw, "-c:v", "png", str(tmp_path / name), stdin=rgba.tobytes())
    read, _ = read_video(tmp_path / name)
    assert [read[0, 8, x, 0] for x in (4, 20, 28)] == [0, 128, 255]
    small = read_clip(tmp_path / name, num_frames=4, fps=8, height=8, width=16)
    assert [small[0, 4, x, 0] for x in (2, 10, 14)] == [0, 128, 255]


def test_transparency_that_is_stored_beside_the_video_is_refused(tmp_path: Path) -> None:
    path = coded(tmp_path / "v.webm", "-c:v libvpx-vp9 -pix_fmt yuva420p -auto-alt-ref 0")
    with pytest.raises(ValueError, match=r"v\.webm: has transparent pixels"):
        frame_times(path)


@pytest.mark.parametrize(
    ("transfer", "primaries", "matrix", "says"),
    [
        ("smpte2084", "bt2020", "bt2020nc", r"is HDR \(PQ\); convert it: ffmpeg -i v\.mp4 -vf zscale"),
        ("arib-std-b67", "bt2020", "bt2020nc", r"is HDR \(HLG\); convert it: ffmpeg"),
        ("bt709", "bt2020", "bt2020nc", r"has BT\.2020 colours; convert it: ffmpeg"),
        ("bt709", "bt709", "14", r"has colour matrix 14 of H\.273"),
    ],
)
def test_colours_that_a_model_does_not_know_are_refused(transfer, primaries, matrix, says, tmp_path: Path) -> None:
    tags = f"-color_trc {transfer} -color_primaries {primaries} -colorspace {matrix}"
    tags += f" -vf setparams=color_trc={transfer}:color_primaries={primaries}:colorspace={matrix}"
    if matrix.isdigit():  # one that ffmpeg itself cannot convert is only written down
        tags = f"-bsf:v h264_metadata=matrix_coefficients={matrix}"
    path = coded(tmp_path / "v.mp4", f"{X264} {tags}")
    with pytest.raises(ValueError, match=rf"v\.mp4: {says}"):
        frame_times(path)


BARS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128), (0, 0, 0)], np.uint8)
TAGS = {"bt709": "bt709", "bt601": "smpte170m"}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["bt709", "bt601"])
@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("height", [96, 720])
def test_colours_come_back_by_the_files_matrix_and_range(
    height: int, tagged: bool, matrix: str, full: bool, tmp_path: Path
) -> None:
    """Without a tag, HD is taken for BT.709 and less for BT.601: what another matrix made gets other hues."""
    width = height * 2
    video = np.repeat(np.repeat(BARS[None, None], width // 6, axis=2), height, axis=1).reshape(1, height, -1, 3)
    video = np.repeat(video, 3, axis=0)
    span = "pc" if full else "tv"
    scale = f"-vf scale=out_color_matrix={matrix}:out_range={span}"
    name = TAGS[matrix] if tagged else "unknown"
    path = coded(tmp_path / "v.mp4", f"{X264} -qp 4 {scale},setparams=colorspace={name}:range={span}", video)
    read, _ = read_video(path)
    middles = [video.shape[2] * (2 * bar + 1) // 12 for bar in range(6)]
    apart = np.abs(read[1, height // 2, middles].astype(int) - BARS)
    if tagged or (matrix == "bt709") == (height == 720):
        assert apart.max() <= 6
    else:
        assert apart[:3].max() > 15 and apart[3:].max() <= 6


def test_frames_that_change_size_are_refused(tmp_path: Path) -> None:
    parts = [coded(tmp_path / "a.ts", X264), coded(tmp_path / "b.ts", X264, numbered(width=96))]
    (tmp_path / "v.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(ValueError, match=r"v\.ts: its frames change size: 64 x 48, then 96 x 48"):
        read_video(tmp_path / "v.ts")


def test_what_is_no_video_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("a cat")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile v.mp4\n")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nv.mp4\n#EXT-X-ENDLIST\n")
    coded(tmp_path / "v.mp4", X264)
    coded(tmp_path / "picture.png", "-frames:v 1 -pix_fmt rgb24")
    coded(tmp_path / "photo.mp4.jpg", "-frames:v 1 -pix_fmt yuvj420p").rename(tmp_path / "photo.mp4")
    coded(tmp_path / "one.mp4", X264 + " -frames:v 1")
    says = {
        "empty.mp4": "is empty",
        "text.mp4": "not a video that can be decoded",
        "list.mp4": r"is a playlist \(concat\)",
        "list.m3u8": "(is a playlist|not a video)",
        "picture.png": r"is a picture \(png_pipe\), not a video",
        "photo.mp4": r"is a picture \(.*\), not a video",
        "one.mp4": "holds 1 frames that are shown; a video has at least 2",
    }
    for name, words in says.items():
        with pytest.raises(ValueError, match=rf"{name}: {words}"):
            frame_times(tmp_path / name)


@pytest.mark.parametrize("name", ["clip: one.mp4", "a|b.mp4", "50%d.mp4", "http:x.mp4", "\u4e00.mp4"])
def test_a_name_is_a_file_whatever_is_in_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    coded(tmp_path / "v.mp4", X264).rename(tmp_path / name)
    assert len(frame_times(name).ticks) == len(read_video(name)[0]) == FRAMES


APART = {
    "v.avi": ("-c:v rawvideo", True),
    "v.y4m": ("", True),
    "v.mkv": ("-c:v ffv1", True),
    "v.mov": ("-c:v prores_ks -pix_fmt yuv422p10le", True),
    "jpeg.avi": ("-c:v mjpeg -pix_fmt yuvj420p", True),
    "intra.mp4": (X264 + " -g 1", True),
    "v.mp4": (X264, False),
    "v.webm": ("-c:v libvpx-vp9 -b:v 100k", False),
    "v.bmp": ("-frames:v 1 -pix_fmt bgr24", True),
    "v.tiff": ("-frames:v 1 -pix_fmt rgb24", True),
    "v.png": ("-frames:v 1 -pix_fmt rgb24", False),
    "v.jpg": ("-frames:v 1 -pix_fmt yuvj420p", False),
}


@pytest.mark.parametrize("name", APART)
def test_files_whose_frames_are_coded_apart_are_known(name: str, tmp_path: Path) -> None:
    options, apart = APART[name]
    assert frames_apart(coded(tmp_path / name, options)) is apart


def test_a_file_that_nothing_can_open_has_no_frames_apart(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("a cat")
    assert not frames_apart(tmp_path / "text.mp4")
