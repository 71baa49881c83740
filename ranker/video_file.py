"""A video file as the judge sees it: of the longest and largest file, only the frames that are shown are ever held."""

# pyright: reportPrivateImportUsage=false

from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from ranker.frames import Footage, spread

LARGEST_FRAME = 2**26
"""Pixels of one frame, twice an 8K picture; a file that claims more is refused before a frame of it is decoded."""

ROOM = 4
"""Frames are held at up to this many times the judge's pixel budget; larger ones are shrunk as they are decoded."""

WHOLE = 0.9
"""A file must hold this share of the duration that it declares, or it is called cut off."""


def read_footage(path: str | Path, *, count: int, max_pixels: int) -> Footage:
    """`count` frames spread evenly over the file's true duration (all of a shorter file's), none shown twice.

    `max_pixels`: the judge's budget for one video. The times that the judge is told are the file's own: a variable
    frame rate is put on the grid of its average rate, so a time is at most half a frame off.

    Raises FileNotFoundError, and ValueError that names the file where it is no video, is cut off or damaged, has fewer
    than two frames, or has frames too large to decode.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no video file {path}")
    try:
        times, tick, fps = _times(path)
        places = (times - times[0]) * (tick * fps)
        nearest = np.unique([np.abs(places - place).argmin() for place in spread(len(times), count)])
        frames = _decode(path, times[nearest].tolist(), budget=ROOM * max_pixels)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be decoded ({error.strerror})") from error
    return Footage(frames, tuple(places[nearest].round().astype(int).tolist()), len(times), fps)


def check_video(path: str | Path) -> None:
    """Raises as `read_footage` does, for what can be known without decoding: a look at the file's packets."""
    try:
        _times(path)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be decoded ({error.strerror})") from error


def _times(path: str | Path) -> tuple[np.ndarray, float, float]:
    """When each frame is shown, ascending, in ticks of the stream's clock; a tick in seconds; frames per second.

    Decodes nothing: a file's packets say all of it.
    """
    with av.open(str(path)) as container:
        stream = _stream(container, path)
        times = np.unique([packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None])
        if len(times) < 2:
            raise ValueError(f"{path}: holds {len(times)} frames that say when they are shown; a video has at least 2")
        tick = float(stream.time_base or 0)
        fps = (len(times) - 1) / (float(times[-1] - times[0]) * tick)
        if stream.average_rate and abs(float(stream.average_rate) / fps - 1) < 1e-3:
            fps = float(stream.average_rate)  # exact, where the clock's ticks only come near
        length = len(times) / fps
        declared = stream.duration * tick if stream.duration else 0.0
        if not declared and container.duration and len(container.streams) == 1:
            declared = container.duration / av.time_base
        if len(times) < WHOLE * stream.frames or length < WHOLE * declared:
            whole = f"{stream.frames} frames" if stream.frames else f"{declared:.2f} s"
            raise ValueError(f"{path}: is cut off after {len(times)} frames, {length:.2f} s; it declares {whole}")
        return times, tick, fps


def _stream(container: InputContainer, path: str | Path) -> VideoStream:
    if not container.streams.video:
        raise ValueError(f"{path}: holds no video stream")
    stream = container.streams.video[0]
    width, height = stream.codec_context.width, stream.codec_context.height
    if not 0 < width * height <= LARGEST_FRAME:
        raise ValueError(f"{path}: frames of {width} x {height}; at most {LARGEST_FRAME:,} pixels can be judged")
    return stream


def _decode(path: str | Path, shown: list[int], *, budget: int) -> np.ndarray:
    """The frames of these times; uint8 `[shown, height, width, 3]`, of at most `budget` pixels in all."""
    frames: dict[int, np.ndarray] = {}
    reformatter = VideoReformatter()  # one for all: a frame's own takes longer to set up than to use
    with av.open(str(path)) as container:
        stream = _stream(container, path)
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if frame.pts in shown and frame.pts not in frames:
                if frame.is_corrupt:
                    raise ValueError(f"{path}: is damaged at {frame.time:.2f} s")
                width, height = _size(frame.width, frame.height, budget // len(shown))
                shrunk = reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1)
                frames[frame.pts] = shrunk.to_ndarray()
    lost = len(shown) - len(frames)
    if lost:
        raise ValueError(f"{path}: is damaged: {lost} of {len(shown)} frames that were looked for cannot be decoded")
    sizes = {frame.shape for frame in frames.values()}
    if len(sizes) > 1:
        raise ValueError(f"{path}: its frames change size: {', '.join(f'{w} x {h}' for h, w, _ in sorted(sizes))}")
    return np.stack([frames[time] for time in shown])


def _size(width: int, height: int, budget: int) -> tuple[int, int]:
    """The frame's own width and height, or both shrunk alike until their product fits the budget."""
    share = min(1.0, (budget / (width * height)) ** 0.5)
    return max(1, int(width * share)), max(1, int(height * share))
