"""`report.html` of a scored judge: figures with intervals, whether its confidence can be trusted, and its mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from buffers.labels import MEANINGS
from cluster.report.page import write_page
from configs.ranker import RankerScoringConfig
from media.video_write import mp4_bytes
from ranker.frames import SampledFrames
from ranker.scoring import Scored

Shown = tuple[Scored, SampledFrames, SampledFrames]


def write_ranker_report(
    file: Path, config: RankerScoringConfig, figures: dict[str, Any], shown: Sequence[Shown], *, version: str
) -> Path:
    """Write the page from `ranker.scoring.score`'s figures and the failures to play, and return its path."""
    failures = [(scored.pair, scored.verdict, _playable(a), _playable(b)) for scored, a, b in shown]
    return write_page(
        file, "judge_scores.html", config=config, version=version, figures=figures, meanings=MEANINGS, failures=failures
    )


def _playable(shown: SampledFrames) -> bytes:
    """An mp4 of the frames that were shown, as long as the video is. An odd side loses its last row or column."""
    frames = shown.frames[:, : shown.frames.shape[1] // 2 * 2, : shown.frames.shape[2] // 2 * 2]
    return mp4_bytes(np.ascontiguousarray(frames), fps=len(frames) * shown.fps / shown.total)
