from pathlib import Path
from typing import Any

import numpy as np
import pytest

from buffers.figures import position_bias
from buffers.labels import DISAGREED, FIRST
from cluster.report.judge_scores import write_ranker_report
from cluster.report.page import TEMPLATES
from configs.ranker import RankerScoringConfig
from configs.sections import RankerConfig
from ranker.frames import sample_frames
from ranker.scoring import failures, score
from tests.cluster.report.test_run import Page
from tests.ranker.test_scoring import scored


def test_the_page_shows_the_figures_and_plays_the_mistakes(tmp_path: Path) -> None:
    given = [scored((1,), 1, criterion="melts") for _ in range(7)]
    given += [scored((3,), 4, confidence=0.8, criterion="<b>slow</b>"), scored((2, 4), 2, domain="general")]
    given += [scored((2,), 1, agreed=False, first_shown=2, dropped="disagreement", confidence=0.55)]
    figures = score(given)
    video = np.random.default_rng(0).integers(0, 256, (9, 33, 32, 3), dtype=np.uint8)
    footage = sample_frames(video, fps=8.0, count=9)
    config = RankerScoringConfig(name="<tiny>", out="x", pairs="held_out.jsonl", ranker=RankerConfig(path="x"))
    shown = [(each, footage, footage) for each in failures(given)]
    file = write_ranker_report(tmp_path / "report.html", config, figures, shown, version="tiny@0")
    page = Page(file.read_text())
    assert page.open == [] and all(address and address.startswith(("#", "data:")) for address in page.addresses)
    assert len(page.videos) == 4
    for text in (
        "Apogee: the judge, <tiny>",
        "tiny@0 on 10 pairs of held_out.jsonl",
        "8 of 10",  # by video
        "7 of 9",  # by label: one has no label
        "9 of 10",  # agreement
        "Of the 1 pairs on which its two orders disagree, it chose the video shown first of 1",
        "1 disagreement",
        "<b>slow</b>",
        "People: alike, A moves better (<b>slow</b>). Judge: alike, B moves better, confidence 0.80",
        "confidence 0.55, the orders disagree",
        "0.0% (0 of 1)",
    ):
        assert text in page.text, text
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("right", "first", "says"),
    [
        (
            90,
            8,
            "better than chance. Of the 20 pairs on which its two orders disagree, it chose the video shown first of 8",
        ),
        (90, 8, "no position bias can be seen"),
        (52, 10, "not shown to be better"),
        (90, 18, "it favours the video shown first."),
        (90, 2, "it favours the video shown second."),
        (90, None, "agree on every pair, so nothing tells of a position bias"),
    ],
)
def test_the_conclusion_claims_no_more_than_its_intervals(right: int, first: int | None, says: str) -> None:
    figures = score([scored((1,), 1 if index < right else 2) for index in range(100)])
    if first is not None:
        counts = {DISAGREED.format("human_1"): 20, FIRST.format("human_1"): first}
        figures["position_bias"] = position_bias(counts)
    words: Any = TEMPLATES.get_template("words.html").module
    assert says in " ".join(words.of_scored_judge(figures).split())
