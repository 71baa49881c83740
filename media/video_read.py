"""A video file as a player shows it, decoded only as far as it is needed: of the longest and largest one, few frames
are ever held.

Order and number: what the decoder gives is what is shown, in that order. Packets say the same without being decoded, if
their codec puts one frame in each and their container says when it is shown; of other files all frames are decoded to
list them. Frames that an edit list hides are left out. Interlaced frames stay as they are stored, both fields woven.

Geometry: pixels that are not square make a frame wider or narrower; then the file's display matrix turns and mirrors
it. Colour: the file's own matrix and range; without a matrix BT.709 for HD and BT.601 for less, as players guess.
Transparent pixels lie on black.
"""

# pyright: reportPrivateImportUsage=false

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

LARGEST_FRAME = 2**26
"""Pixels of one frame, twice an 8K picture; a file that claims more is refused before a frame of it is decoded."""

WHOLE = 0.9
"""A file that lists neither its frames nor its bytes must hold this share of the duration that it declares."""

HD = 1280, 576
"""A frame at least as wide as the first, or higher than the second, is HD."""

FRAME_A_PACKET = frozenset({"h264", "hevc", "vvc", "av1", "vp9", "gif"})
"""Codecs that put one frame which is shown into each packet, besides those that code each frame by itself."""

FRAMES_APART = frozenset({"ffv1", "png", "cfhd"})
"""Codecs that code each frame by itself, though FFmpeg does not list them so."""

PACKED_PICTURES = frozenset({"mjpeg", "png", "apng", "gif", "webp", "jpeg2000", "jpegls", "jpegxl", "av1", "hevc"})
"""Codecs of compressed pictures: if a pixel differs, so do many bytes, and nearly always the length."""

PLAYLISTS = frozenset({"hls", "dash", "concat", "sdp", "imf"})
"""Formats of files that only name other files."""

MATRICES = frozenset({0, 1, 2, 3, 4, 5, 6, 7, 9})
"""Colour matrices, as H.273 numbers them, that can be converted; 2 and 3 name none."""

HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions of high dynamic range, as H.273 numbers them."""

WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
"""Primaries, as H.273 numbers them, whose colours come out pale if they are taken for BT.709's."""

TO_SDR = "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable,zscale=t=bt709:m=bt709:r=tv"
TO_BT709 = "zscale=p=bt709:t=bt709:m=bt709:r=tv"
"""What ffmpeg is told to make of them what a model is trained on."""

Size = Callable[[int, int], tuple[int, int]]
"""Width and height of a frame as it is shown -> width and height to shrink or enlarge it to."""


class Times(NamedTuple):
    """When each frame is shown: `ticks` of the stream's clock, ascending; `tick`: one in seconds; `fps`: on average.

    `timed`: a decoded frame says its own tick. Otherwise the file says in which order frames are shown, not when.
    `width`, `height`: the stream's, in square pixels, before a frame is turned.
    """

    ticks: np.ndarray
    tick: float
    fps: float
    timed: bool
    width: int
    height: int

    @property
    def seconds(self) -> np.ndarray:
        """When each frame is shown, from the first."""
        return (self.ticks - self.ticks[0]) * self.tick


def frame_times(path: str | Path, *, least: int = 2) -> Times:
    """When frames are shown. One is decoded, to know early what cannot be read; all are, if packets do not tell.

    Raises FileNotFoundError, and ValueError that names the file if it is not a video, is cut off or damaged, has fewer
    than `least` frames, has frames too large to decode, or frames that would not come out as a player shows them.
    """
    with _opened(path) as (container, stream):
        stream.codec_context.thread_count = 1
        packets, first, end = _demuxed(container, stream)
        if first is not None:
            _check_shown(first, path)
        _check_whole(path, container, stream, packets, end)
        raw = bool(container.format.flags & Flags.no_timestamps.value)
        presented = not raw and not _pts_made_up(container, stream, packets)
        told = presented and _packets_tell(stream, packets, first)
        tick, rate = float(stream.time_base or 0), float(stream.average_rate or stream.guessed_rate or 0)
        guessed = float(stream.guessed_rate or 0)
        width, height = _square(stream.codec_context, float(stream.sample_aspect_ratio or 1))
    ticks = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.hidden)
    timed = told
    if not told:
        shown = _decoded_times(path)
        ticks = [pts for pts, _ in shown if pts is not None]
        timed = presented and len(ticks) == len(shown) and _ascend(ticks)
        if not timed:
            ticks = _by_decode_time([dts for _, dts in shown])
            if raw or not ticks:
                rate = guessed or rate or 25.0  # what the stream says; what players take if it does not
                ticks, tick = list(range(len(shown))), 1 / rate
    if len(ticks) < least:
        raise ValueError(f"{path}: holds {len(ticks)} frames that are shown; a video has at least {least}")
    fps = (len(ticks) - 1) / ((ticks[-1] - ticks[0]) * tick) if len(ticks) > 1 else rate or 1.0
    if rate and abs(rate / fps - 1) < 1e-3:
        fps = rate  # exact; the clock's ticks only come near
    return Times(np.array(ticks), tick, fps, timed, width, height)


def decode_frames(path: str | Path, times: Times, places: Iterable[int], *, size: Size) -> np.ndarray:
    """The frames at `places` among the file's `times`, each at the size that `size` makes of it.

    uint8 `[places, height, width, 3]`. Raises ValueError that names the file if it is damaged, or as `frame_times`.
    """
    places = list(places)
    wanted, frames = set(places), {}
    reformatter = VideoReformatter()  # one for all: a frame's own takes longer to set up than to use
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        if _alone(stream):  # such codecs otherwise conceal what is damaged, and say nothing
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        aspect = float(stream.sample_aspect_ratio or 1)
        sizes = []
        for place, frame in enumerate(_frames(container, stream)):
            if place == len(times.ticks) or (times.timed and frame.pts != times.ticks[place]):
                when = f"frame {place} of {len(times.ticks)}"
                raise ValueError(
                    f"{path}: is damaged, or its packets name wrong times: {when} is not shown when they say"
                )
            if (frame.width, frame.height) not in sizes:
                sizes.append((frame.width, frame.height))
            if len(sizes) > 1:
                raise ValueError(f"{path}: its frames change size: {', then '.join(f'{w} x {h}' for w, h in sizes)}")
            if place in wanted:
                if frame.is_corrupt:
                    raise ValueError(f"{path}: is damaged at {times.seconds[place]:.2f} s")
                frames[place] = _pixels(frame, aspect, size, reformatter, path)
                if len(frames) == len(wanted):
                    break
    lost = len(wanted) - len(frames)
    if lost:
        raise ValueError(f"{path}: is damaged: {lost} of {len(wanted)} frames that were looked for cannot be decoded")
    return np.stack([frames[place] for place in places])


def read_clip(path: str | Path, *, num_frames: int, fps: float, height: int, width: int) -> np.ndarray:
    """The first `num_frames` frames at `fps`, uint8 `[num_frames, height, width, 3]`, as a model is trained on them.

    In time: of each moment k / fps from the file's start the frame that is nearest; none is made up. In space: scaled
    until the picture covers `height` x `width`, its middle cut out. Raises as `frame_times` and `decode_frames` do, and
    ValueError if the video is too short or too slow: a frame would have to be shown twice.
    """
    times = frame_times(path)
    moments = np.arange(num_frames) / fps
    after = np.searchsorted(times.seconds, moments).clip(1, len(times.ticks) - 1)
    before_is_nearer = moments - times.seconds[after - 1] <= times.seconds[after] - moments
    nearest = np.where(before_is_nearer, after - 1, after).tolist()
    if len(set(nearest)) < num_frames:
        raise ValueError(
            f"{path}: {len(times.ticks)} frames over {len(times.ticks) / times.fps:.2f} s ({times.fps:.3g} a second) "
            f"are not the {num_frames} different frames at {fps:g} a second that are wanted ({num_frames / fps:.2f} s)"
        )

    def covering(wide: int, high: int) -> tuple[int, int]:
        scale = max(width / wide, height / high)
        return max(width, round(wide * scale)), max(height, round(high * scale))

    frames = decode_frames(path, times, nearest, size=covering)
    top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    return np.ascontiguousarray(frames[:, top : top + height, left : left + width])


def shown_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels at which a player shows it. Raises as `frame_times`."""
    with _opened(path) as (container, stream):
        frame = next(_frames(container, stream), None)
        if frame is None:
            raise ValueError(f"{path}: not a video that can be decoded")
        wide, high = _square(frame, float(stream.sample_aspect_ratio or 1))
        return (wide, high) if _turn(frame, path)[0] else (high, wide)


def read_video(path: str | Path) -> tuple[np.ndarray, float]:
    """All frames, uint8 `[frames, height, width, 3]`, and frames per second. Raises as `frame_times` does."""
    times = frame_times(path, least=1)
    frames = decode_frames(path, times, range(len(times.ticks)), size=lambda width, height: (width, height))
    return frames, times.fps


def frames_apart(path: str | Path) -> bool:
    """Whether a frame can differ between two such files and nothing else: each is coded by itself, or not at all.

    Of a compressed picture, and of a file that is neither video nor picture, it is False.
    """
    try:
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            return any(_codes_apart(container, stream) for stream in _own_streams(container))
    except av.FFmpegError:
        return False


def _codes_apart(container: InputContainer, stream: VideoStream) -> bool:
    if stream.codec_context is None:
        return False
    if _picture(container):
        return stream.codec_context.codec.canonical_name not in PACKED_PICTURES
    if _alone(stream):
        return True
    index = stream.index_entries if "mov" in container.format.name else ()  # of others it lists key frames only
    return len(index) > 1 and all(entry.is_keyframe for entry in index)


def _alone(stream: VideoStream) -> bool:
    """Whether the stream's codec codes each frame by itself."""
    codec = stream.codec_context.codec
    return codec.intra_only or codec.canonical_name in FRAMES_APART


class _Packet(NamedTuple):
    """What a packet says of its frame, in ticks. `hidden`: the frame is decoded and not shown."""

    pts: int | None
    dts: int | None
    duration: int
    hidden: bool

    @property
    def stamp(self) -> int | None:
        return self.pts if self.dts is None else self.dts


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and the stream that a player shows; what FFmpeg says in the block becomes a ValueError."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no video file {path}")
    if not Path(path).stat().st_size:
        raise ValueError(f"{path}: is empty")
    try:  # `file:`, or a name with a colon would be taken for a protocol
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be decoded ({error.strerror})") from error
    with container:
        try:
            yield container, _stream(container, path)
        except av.FFmpegError as error:
            raise ValueError(f"{path}: is damaged: it cannot be decoded ({error.strerror})") from error


def _own_streams(container: InputContainer) -> list[VideoStream]:
    """The video streams without cover pictures."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & pictures]


def _picture(container: InputContainer) -> bool:
    return container.format.name.endswith("_pipe") or container.format.name == "image2"


def _stream(container: InputContainer, path: str | Path) -> VideoStream:
    name = container.format.name
    if name in PLAYLISTS:
        raise ValueError(f"{path}: is a playlist ({name}), not a video; name the video itself")
    if _picture(container) or name == "tty":
        raise ValueError(f"{path}: is a {'text' if name == 'tty' else 'picture'} ({name}), not a video")
    streams = _own_streams(container)
    if not streams:
        raise ValueError(f"{path}: holds no video stream{', only a cover picture' if container.streams.video else ''}")
    best = container.streams.best("video")
    stream = next((stream for stream in streams if best is not None and stream.index == best.index), streams[0])
    if stream.codec_context is None:
        raise ValueError(f"{path}: its codec is not known here; write it anew as H.264")
    if stream.metadata.get("alpha_mode") == "1":
        raise ValueError(f"{path}: has transparent pixels beside its video, which are not decoded; put it on a ground")
    width, height = stream.codec_context.width, stream.codec_context.height
    if not 0 < width * height * max(1, stream.sample_aspect_ratio or 1) <= LARGEST_FRAME:
        raise ValueError(f"{path}: frames of {width} x {height}; at most {LARGEST_FRAME:,} pixels can be decoded")
    return stream


def _demuxed(container: InputContainer, stream: VideoStream) -> tuple[list[_Packet], VideoFrame | None, float]:
    """The stream's packets, its first frame that is shown, and when all streams have ended, in seconds."""
    packets, first, end, begun = [], None, 0.0, False
    others = not stream.duration and len(container.streams) > 1
    for packet in container.demux() if others else container.demux(stream):
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * (packet.time_base or 0)))
        if packet.stream_index != stream.index:
            continue
        if first is None:
            begun = begun or packet.is_keyframe
            first = next(iter(_decoded(cast("Packet[VideoStream]", packet), begun)), None)
        if packet.size:
            packets.append(_Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_discard))
    return packets, first, end


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All that are shown, in order."""
    begun = False
    for packet in container.demux(stream):
        begun = begun or packet.is_keyframe
        yield from _decoded(packet, begun)


def _decoded(packet: "Packet[VideoStream]", begun: bool) -> list[VideoFrame]:
    """What comes out of the decoder. Before a key frame has `begun` a stream, its packets need not be decodable."""
    try:
        return packet.decode()
    except av.FFmpegError:
        if begun:
            raise
        return []


def _pts_made_up(container: InputContainer, stream: VideoStream, packets: list[_Packet]) -> bool:
    """Whether the container has decode times only, though frames are shown in another order than they are decoded in.

    Then the two times cannot keep one distance, unless FFmpeg made up the one from the other.
    """
    if not stream.codec_context.has_b_frames:
        return False
    both = {packet.pts - packet.dts for packet in packets if packet.pts is not None and packet.dts is not None}
    return container.format.name == "avi" or len(both) == 1


def _packets_tell(stream: VideoStream, packets: list[_Packet], first: VideoFrame | None) -> bool:
    """Whether packets say how many frames are shown and when, so that decoding would say nothing else."""
    context = stream.codec_context
    if not _alone(stream) and context.codec.canonical_name not in FRAME_A_PACKET:
        return False
    if context.field_order > 1:  # a packet may hold one field
        return False
    shown = [packet for packet in packets if not packet.hidden]
    times = {packet.pts for packet in shown if packet.pts is not None}
    return first is not None and 0 < len(shown) == len(times) and first.pts == min(times)


def _decoded_times(path: str | Path) -> list[tuple[int | None, int | None]]:
    """Of each frame that the decoder gives: when it says it is shown, and when the packet that pushed it out is due."""
    with _opened(path) as (container, stream):
        return [(frame.pts, frame.dts) for frame in _frames(container, stream)]


def _by_decode_time(due: list[int | None]) -> list[int]:
    """When frames are shown, by the packets that pushed them out, as players do; empty if those do not say.

    The last frames are pushed out by the end of the file: they follow at the distance of those before.
    """
    known = [one for one in due if one is not None]
    if len(known) < 2 or None in due[: len(known)] or not _ascend(known):
        return []
    step = known[-1] - known[-2]
    return known + [known[-1] + step * late for late in range(1, 1 + len(due) - len(known))]


def _ascend(ticks: list[int]) -> bool:
    return all(a < b for a, b in pairwise(ticks))


def _check_whole(
    path: str | Path, container: InputContainer, stream: VideoStream, packets: list[_Packet], end: float
) -> None:
    """Raises ValueError that says which of its own declarations the file does not keep."""
    size, stated = Path(path).stat().st_size, _stated_size(path)
    if stated and size < stated:
        raise ValueError(f"{path}: is cut off: it has {size:,} of the {stated:,} bytes that it declares")
    mov = "mov" in container.format.name
    if mov and len(packets) < sum(entry.size > 0 for entry in stream.index_entries):
        listed = len(stream.index_entries)
        raise ValueError(f"{path}: is cut off: it holds {len(packets)} of the {listed} frames that its index lists")
    if (mov and stream.frames) or (stated and "matroska" in container.format.name):
        return  # it lists all that it should hold, which is more exact than a duration
    tick = float(stream.time_base or 0)
    if stream.duration:
        declared, stamps = stream.duration * tick, [p.stamp for p in packets if p.stamp is not None]
        # Some containers count their duration from zero, whenever their first frame is shown.
        end = max(stamps, default=0) - min([0, *stamps]) + max((p.duration for p in packets), default=0)
        end *= tick
    else:
        declared = (container.duration or 0) / av.time_base
    if not container.format.flags & Flags.no_timestamps.value and end < WHOLE * declared:
        raise ValueError(f"{path}: is cut off: its frames end after {end:.2f} s; it declares {declared:.2f} s")


def _stated_size(path: str | Path) -> int:
    """How many bytes a RIFF or Matroska file says that it has; 0 if it does not say, and of other files."""
    with open(path, "rb") as file:
        head = file.read(1 << 12)
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
        return 0 if size in (0, 2**32 - 1) else 8 + size
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return 0
    start, size = _ebml_size(head, 4)
    if head[start + size :][:4] != b"\x18\x53\x80\x67":
        return 0
    start, size = _ebml_size(head, start + size + 4)
    return start + size if size else 0


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """Where an element's content starts and its length, 0 if that is not known."""
    if at >= len(data) or not data[at]:
        return at, 0
    length = 9 - data[at].bit_length()
    every = (1 << 7 * length) - 1
    size = int.from_bytes(data[at : at + length], "big") & every
    return at + length, 0 if size == every else size


def _check_shown(frame: VideoFrame, path: str | Path) -> None:
    """Raises ValueError if the frame's colours or its place on the screen are none that can be made."""
    _turn(frame, path)
    hdr = HDR.get(frame.color_trc)
    if hdr is None and frame.color_trc == 2 and _side_data(frame, SideData.DOVI_METADATA):
        hdr = "Dolby Vision"
    name = Path(path).name
    if hdr:
        raise ValueError(f"{path}: is HDR ({hdr}); convert it: ffmpeg -i {name} -vf {TO_SDR},format=yuv420p new.mp4")
    if frame.color_primaries in WIDE:
        wide = WIDE[frame.color_primaries]
        raise ValueError(
            f"{path}: has {wide} colours; convert it: ffmpeg -i {name} -vf {TO_BT709},format=yuv420p new.mp4"
        )
    if frame.colorspace not in MATRICES and not frame.format.is_rgb:
        raise ValueError(f"{path}: has colour matrix {frame.colorspace} of H.273; convert it to BT.709 (1)")


def _square(picture: VideoCodecContext | VideoFrame, aspect: float) -> tuple[int, int]:
    """Width and height in square pixels of what has pixels `aspect` times as wide as high."""
    return max(1, round(picture.width * aspect)), picture.height


def _turn(frame: VideoFrame, path: str | Path) -> tuple[bool, bool, bool]:
    """Whether the frame's display matrix swaps its axes, and whether the outcome is mirrored left-right, up-down."""
    matrix = _side_data(frame, SideData.DISPLAYMATRIX)
    if not matrix:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    straight, across = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(straight, across) > 0.01 * max(straight, across):
        angle = np.degrees(np.arctan2(b, a))
        raise ValueError(f"{path}: is to be turned by {angle:.0f} degrees; only 90, 180 and 270 are")
    return (True, c < 0, b < 0) if across > straight else (False, a < 0, d < 0)


def _side_data(frame: VideoFrame, kind: SideData) -> bytes:
    """Empty if there is none of this kind."""
    try:
        return bytes(cast(SideDataContainer, frame.side_data)[kind])
    except KeyError:
        return b""


def _pixels(
    frame: VideoFrame, aspect: float, size: Size, reformatter: VideoReformatter, path: str | Path
) -> np.ndarray:
    """uint8 `[height, width, 3]` as it is shown, at the size that `size` makes of it."""
    _check_shown(frame, path)
    across, left_right, up_down = _turn(frame, path)
    wide, high = _square(frame, aspect)
    width, height = size(high, wide)[::-1] if across else size(wide, high)
    hd = frame.width >= HD[0] or frame.height > HD[1]
    matrix = Colorspace.ITU709 if hd and frame.colorspace in (2, 3) and not frame.format.is_rgb else None
    if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
        rgba = reformatter.reformat(frame, format="rgba", src_colorspace=matrix, threads=1).to_ndarray()
        on_black = (rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255  # before scaling, which mixes pixels
        frame, matrix = VideoFrame.from_ndarray(on_black.astype(np.uint8), format="rgb24"), None
    options = {"src_colorspace": matrix, "interpolation": "AREA", "threads": 1}
    pixels = reformatter.reformat(frame, width, height, "rgb24", **options).to_ndarray()
    pixels = pixels.transpose(1, 0, 2) if across else pixels
    return pixels[:: -1 if up_down else 1, :: -1 if left_right else 1]
