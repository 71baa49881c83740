"""mp4 files that browsers play: H.264, yuv420p, through PyAV. No torch."""

# pyright: reportPrivateImportUsage=false

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange

CRF = "16"
"""x264's quality: visually lossless, so that a codec's artefact is not taken for the model's."""

BT601 = 6
"""BT.601's colour matrix, as H.273 numbers it."""


def write_mp4(path: str | Path, frames: np.ndarray, *, fps: float, scale: int = 1) -> None:
    """Write uint8 `[frames, height, width, 3]` to `path`; see `mp4_bytes`."""
    Path(path).write_bytes(mp4_bytes(frames, fps=fps, scale=scale))


def mp4_bytes(frames: np.ndarray, *, fps: float, scale: int = 1) -> bytes:
    """An H.264 mp4 of uint8 `[frames, height, width, 3]`, each pixel repeated `scale` times in both directions.

    Raises ValueError for another dtype or shape, or if the scaled height or width is odd (yuv420p halves both).
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"a video is uint8 [frames, height, width, 3], got {frames.dtype} {list(frames.shape)}")
    if scale != 1:
        frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 in yuv420p needs even sides, got {width} x {height}; an even `scale` makes them so")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": CRF}
        # What the conversion below does, said in the file: players otherwise guess BT.709 of a large frame.
        stream.codec_context.colorspace = BT601
        stream.codec_context.color_range = ColorRange.MPEG
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()
