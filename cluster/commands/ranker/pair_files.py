"""The pairs of a manifest that a judge can be asked about, as far as the manifest and the heads of its files tell.

Nothing is started for that. Of most videos one frame alone is decoded (`frame_times` of `media/video_read.py`): damage
in the middle of a file shows only once it is read.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from buffers.people.labelled_pairs import LabelledPair, read_labelled_pairs
from buffers.people.manifests import listed, made_or_why
from buffers.records import Domain
from configs.ranker import SlowMotionConfig
from configs.sections import RankerConfig
from media.video_read import frame_times
from ranker.frames import spread
from ranker.questions import Shape, question_tokens
from ranker.training.slow_motion import least_frames

READERS = 16
"""Threads that look at the files."""


class Header(NamedTuple):
    """How many frames a video file has, and the shape of those that a judge is shown."""

    file: Path
    frames: int
    shape: Shape

    def __str__(self) -> str:
        return f"{self.file} ({self.shape.width} x {self.shape.height})"


@dataclass(frozen=True)
class Context:
    """What a judge takes: so many frames and pixels of each video, and `tokens` of a question, the value of `key`.

    processor: the checkpoint's. slow_motion: how some of a training's better videos are slowed.
    """

    processor: Any
    frames: int
    max_pixels_per_video: int
    tokens: int
    key: str
    slow_motion: SlowMotionConfig | None = None

    @classmethod
    def of(cls, config: RankerConfig) -> "Context":
        """Of the judge of a run, whose checkpoint is good."""
        from transformers import AutoProcessor  # takes seconds

        tokens = config.max_model_len, "ranker.max_model_len"
        return cls(AutoProcessor.from_pretrained(config.path), config.frames, config.max_pixels_per_video, *tokens)

    def check(self, domain: Domain, a: Header, b: Header, *, framed: bool = False) -> None:
        """Raises ValueError that names both files if the judge does not take a question about them."""
        try:
            shapes, pixels = (a.shape, b.shape), self.max_pixels_per_video
            tokens = question_tokens(self.processor, domain, shapes, max_pixels_per_video=pixels, framed=framed)
        except ValueError as error:
            raise ValueError(f"{a} and {b}: {error}") from error
        if tokens > self.tokens:
            raise ValueError(
                f"{a} and {b}: a question about both takes {tokens:,} tokens, and {self.key} = {self.tokens}; use "
                "smaller videos, fewer frames, a lower max_pixels_per_video, or a longer context"
            )

    def check_pair(self, pair: LabelledPair, headers: dict[Path, Header]) -> None:
        """Raises as `check` does, and if the better video is too short to be slowed."""
        a, b = headers[pair.a], headers[pair.b]
        better = a if pair.a_is_better else b
        slow = self.slow_motion
        least = max(map(least_frames, slow.factors)) if slow and slow.share.get(pair.domain) else 0
        if better.frames < least:
            raise ValueError(
                f"{better.file}: has {better.frames} frames; a video that is slowed needs at least {least}. Set "
                f"slow_motion.share.{pair.domain} to 0 if none is to be, or give other slow_motion.factors"
            )
        self.check(pair.domain, a, b, framed=pair.first_frame is not None)


def usable_pairs(manifest: Path, context: Context, *, skip_bad_rows: bool) -> tuple[list[LabelledPair], list[str]]:
    """The manifest's pairs in order, and why the others are left out, which is printed as well.

    Raises FileNotFoundError without a manifest, and ValueError if a row, a file or a pair is bad (unless
    `skip_bad_rows`) or none is left.
    """
    pairs, problems = read_labelled_pairs(manifest, skip_bad_rows=skip_bad_rows)
    files = sorted({path for pair in pairs for path in (pair.a, pair.b)})
    with ThreadPoolExecutor(READERS) as readers:
        looked_at = readers.map(lambda file: made_or_why(header, file, context.frames), files)
        found = dict(zip(files, looked_at, strict=True))
    headers = {file: each for file, each in found.items() if not isinstance(each, str)}
    bad = [each for each in found.values() if isinstance(each, str)]
    readable = [pair for pair in pairs if pair.a in headers and pair.b in headers]
    asked = [(pair, made_or_why(context.check_pair, pair, headers)) for pair in readable]
    bad += dict.fromkeys(why for _, why in asked if why)
    if bad and not skip_bad_rows:
        raise ValueError(listed(bad, of="files and pairs"))
    problems += bad
    for problem in problems:
        print(f"left out: {problem}", flush=True)
    left = [pair for pair, why in asked if not why]
    if not left:
        raise ValueError(f"{manifest}: holds no usable pair")
    return left, problems


def header(file: Path, frames: int) -> Header:
    """`frames` are shown. A time may be half a frame off. Raises as `frame_times` (`media/video_read.py`) does."""
    times = frame_times(file)
    seconds = times.seconds[spread(len(times.ticks), frames)].tolist()
    return Header(file, len(times.ticks), Shape(tuple(seconds), times.height, times.width))
