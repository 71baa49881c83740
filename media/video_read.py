"""A video file, decoded only as far as it is needed: of the longest and largest one, few frames are ever held."""

# pyright: reportPrivateImportUsage=false

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

LARGEST_FRAME = 2**26
"""Pixels of one frame, twice an 8K picture; a file that claims more is refused before a frame of it is decoded."""

WHOLE = 0.9
"""A file must hold this share of the duration that it declares, or it is called cut off."""

Size = Callable[[int, int], tuple[int, int]]
"""Width and height of a frame of the file -> width and height to shrink or enlarge it to."""


class Times(NamedTuple):
    """When each frame is shown: `ticks` of the stream's clock, ascending; `tick`: one in seconds; `fps`: on average."""

    ticks: np.ndarray
    tick: float
    fps: float

    @property
    def seconds(self) -> np.ndarray:
        """When each frame is shown, from the first."""
        return (self.ticks - self.ticks[0]) * self.tick


def frame_times(path: str | Path) -> Times:
    """Decodes nothing: a file's packets say all of it.

    Raises FileNotFoundError, and ValueError that names the file if it is not a video, is cut off, has fewer than two
    frames, or has frames too large to decode.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no video file {path}")
    try:
        return _times(path)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be decoded ({error.strerror})") from error


def decode_frames(path: str | Path, ticks: list[int], *, size: Size) -> np.ndarray:
    """The frames of these times, each at the size that `size` makes of it; uint8 `[frames, height, width, 3]`.

    Raises ValueError that names the file if it is damaged.
    """
    wanted, frames = set(ticks), {}
    reformatter = VideoReformatter()  # one for all: a frame's own takes longer to set up than to use
    try:
        with av.open(str(path)) as container:
            stream = _stream(container, path)
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if frame.pts in wanted and frame.pts not in frames:
                    if frame.is_corrupt:
                        raise ValueError(f"{path}: is damaged at {frame.time:.2f} s")
                    width, height = size(frame.width, frame.height)
                    made = reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1)
                    frames[frame.pts] = made.to_ndarray()
                    if len(frames) == len(wanted):
                        break
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be decoded ({error.strerror})") from error
    lost = len(wanted) - len(frames)
    if lost:
        raise ValueError(f"{path}: is damaged: {lost} of {len(wanted)} frames that were looked for cannot be decoded")
    sizes = {frame.shape for frame in frames.values()}
    if len(sizes) > 1:
        raise ValueError(f"{path}: its frames change size: {', '.join(f'{w} x {h}' for h, w, _ in sorted(sizes))}")
    return np.stack([frames[tick] for tick in ticks])


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
    nearest = np.where(before_is_nearer, after - 1, after)
    if len(set(nearest.tolist())) < num_frames:
        raise ValueError(
            f"{path}: {len(times.ticks)} frames over {len(times.ticks) / times.fps:.2f} s ({times.fps:.3g} a second) "
            f"are not the {num_frames} different frames at {fps:g} a second that are wanted ({num_frames / fps:.2f} s)"
        )

    def covering(wide: int, high: int) -> tuple[int, int]:
        scale = max(width / wide, height / high)
        return max(width, round(wide * scale)), max(height, round(high * scale))

    frames = decode_frames(path, times.ticks[nearest].tolist(), size=covering)
    top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    return np.ascontiguousarray(frames[:, top : top + height, left : left + width])


def _times(path: str | Path) -> Times:
    with av.open(str(path)) as container:
        stream = _stream(container, path)
        times = np.unique([packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None])
        if len(times) < 2:
            raise ValueError(f"{path}: holds {len(times)} frames that say when they are shown; a video has at least 2")
        tick = float(stream.time_base or 0)
        fps = (len(times) - 1) / (float(times[-1] - times[0]) * tick)
        if stream.average_rate and abs(float(stream.average_rate) / fps - 1) < 1e-3:
            fps = float(stream.average_rate)  # exact; the clock's ticks only come near
        # Some containers count their duration from zero, whenever their first frame is shown.
        length = max(len(times), float(times[-1]) * tick * fps + 1) / fps
        declared = stream.duration * tick if stream.duration else 0.0
        if not declared and container.duration and len(container.streams) == 1:
            declared = container.duration / av.time_base
        if len(times) < WHOLE * stream.frames or length < WHOLE * declared:
            whole = f"{stream.frames} frames" if stream.frames else f"{declared:.2f} s"
            raise ValueError(f"{path}: is cut off after {len(times)} frames, {length:.2f} s; it declares {whole}")
        return Times(times, tick, fps)


def _stream(container: InputContainer, path: str | Path) -> VideoStream:
    if not container.streams.video:
        raise ValueError(f"{path}: holds no video stream")
    stream = container.streams.video[0]
    width, height = stream.codec_context.width, stream.codec_context.height
    if not 0 < width * height <= LARGEST_FRAME:
        raise ValueError(f"{path}: frames of {width} x {height}; at most {LARGEST_FRAME:,} pixels can be decoded")
    return stream
