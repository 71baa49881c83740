"""How large a video's frames are, as its header says; nothing is decoded."""

# pyright: reportPrivateImportUsage=false

from pathlib import Path

import av


def shown_size(path: str | Path) -> tuple[int, int]:
    """Width and height in square pixels, before the picture is turned, of a file that `frame_times` has found good."""
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        best, streams = container.streams.best("video"), container.streams.video
        stream = next((each for each in streams if best is not None and each.index == best.index), streams[0])
        aspect = float(stream.sample_aspect_ratio or 1)
        return max(1, round(stream.codec_context.width * aspect)), stream.codec_context.height
