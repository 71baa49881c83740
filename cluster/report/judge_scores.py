"""`report.html` of a scored judge: figures with intervals, whether its confidence can be trusted, and its mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from buffers.labels import MEANINGS
from cluster.monitor.wording import percent
from cluster.report import plots
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
    size = shown[0][1].frames.shape if shown else (1, 1, 1)
    return write_page(
        file,
        "judge_scores.html",
        width=size[2],
        height=size[1],
        config=config,
        version=version,
        figures=figures,
        meanings=MEANINGS,
        conclusion=conclusion(figures),
        accuracy=_accuracy(figures),
        confidence=_confidence(figures),
        failures=[_failure(*each) for each in shown],
    )


def conclusion(figures: dict[str, Any]) -> str:
    """One sentence that claims no more than the intervals allow."""
    right, first = figures["overall"]["by_video"], figures["first_shown"]
    chance = "better than chance" if right["low"] > 0.5 else "not shown to be better than chance"
    bias = "no position bias can be seen"
    if not first["low"] <= 0.5 <= first["high"]:
        bias = f"it favours the video shown {'first' if first['rate'] > 0.5 else 'second'}"
    return (
        f"It names the better video of {percent(right['rate'])} of the pairs ({percent(right['low'])} to "
        f"{percent(right['high'])}), {chance}; {bias} ({percent(first['rate'])} first)."
    )


def _accuracy(figures: dict[str, Any]) -> list[Markup]:
    parts = {"all": figures["overall"], **figures["by_domain"], **figures["by_kind"]}
    pictures = []
    for title, key in (("Right by video", "by_video"), ("Right by label", "by_label")):
        rows = [
            plots.Whisker(name, rate["rate"], rate["low"], rate["high"], color=plots.BLUE)
            for name, part in parts.items()
            if (rate := part[key]) is not None
        ]
        if rows:
            pictures.append(plots.whiskers(title, rows, x_label="share of pairs, 95% interval", percent=True))
    return pictures


def _confidence(figures: dict[str, Any]) -> list[Markup]:
    bins, shares = figures["calibration"]["bins"], figures["by_confidence"]
    error = figures["calibration"]["expected_error"]
    reliability = [
        plots.Line("judge", [each["confidence"] for each in bins], [each["right"] for each in bins], plots.BLUE),
        plots.Line("calibrated", [0.5, 1.0], [0.5, 1.0], plots.ORANGE),
    ]
    surest = plots.Line("judge", [each["share"] for each in shares], [each["right"] for each in shares], plots.BLUE)
    all_pairs = (figures["overall"]["by_video"]["rate"], "all pairs")
    right: dict[str, Any] = {"y_label": "right by video", "percent": True}
    x_label = f"confidence (expected calibration error {error:.3f})"
    return [
        plots.curves("Reliability", reliability, x_label=x_label, **right),
        plots.curves(
            "The surest pairs first", [surest], x_label="share of the pairs that is kept", reference=all_pairs, **right
        ),
    ]


def _failure(scored: Scored, a: SampledFrames, b: SampledFrames) -> dict[str, Any]:
    pair, verdict = scored.pair, scored.verdict
    (right, *others), choice = pair.right, "A" if pair.a_is_better else "B"
    people = f"{choice} is better" if others else MEANINGS[right - 1]
    why = f" ({pair.criterion})" if pair.criterion else ""
    doubt = "" if verdict.agreed else ", the orders disagree"
    judge = f"{MEANINGS[verdict.label - 1]}, confidence {verdict.confidence:.2f}{doubt}"
    return {
        "caption": f"People: {people}{why}. Judge: {judge}",
        "sides": [("A", pair.a, _playable(a)), ("B", pair.b, _playable(b))],
    }


def _playable(footage: SampledFrames) -> bytes:
    """An mp4 of the frames that were shown, as long as the video is. An odd side loses its last row or column."""
    frames = footage.frames[:, : footage.frames.shape[1] // 2 * 2, : footage.frames.shape[2] // 2 * 2]
    return mp4_bytes(np.ascontiguousarray(frames), fps=len(frames) * footage.fps / footage.total)
