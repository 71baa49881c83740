import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from buffers.records import Domain
from cluster.commands.ranker import rank as by_hand
from configs.sections import RankerConfig
from media.video_write import write_mp4
from ranker.ranker import Ranker
from tests.cluster.commands.ranker.videos import video
from tests.ranker.test_ranker import BrightnessJudge, Choosy, FirstJudge

JUDGE = Path("examples/miniature/weights/judge")


@pytest.fixture
def videos(tmp_path: Path) -> tuple[Path, Path]:
    """A bright one and a dark one."""
    files = tmp_path / "a.mp4", tmp_path / "b.mp4"
    for file, level in zip(files, (200, 10), strict=True):
        write_mp4(file, np.full((81, 32, 48, 3), level, np.uint8), fps=16.0)
    return files


def printed(
    videos: tuple[Path, Path],
    judge: BrightnessJudge,
    monkeypatch: pytest.MonkeyPatch,
    prompt: str | None = None,
    domain: Domain | None = None,
) -> str:
    monkeypatch.setattr(by_hand, "Ranker", lambda config: Ranker(config, open_judge=lambda config: judge))
    out = io.StringIO()
    console = Console(file=out, width=140, highlight=False)
    by_hand.rank_by_hand(RankerConfig(path=str(JUDGE)), *videos, prompt=prompt, domain=domain, console=console)
    return out.getvalue()


def test_both_orders_are_told_in_terms_of_a_and_b(videos: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(videos, BrightnessJudge(), monkeypatch, domain="human")
    assert "a.mp4: 40 of 81 frames, 5.06 s at 16 frames per second, 48 x 32" in text
    assert "judge brightness@0+human@1, rubric" in text and "domain human" in text
    rows = {line[:7]: line.split()[2:] for line in text.splitlines() if line.startswith(("A first", "B first"))}
    # 0.90, 0.05, 0.03 and 0.01 of 0.99; asked the other way round the judge says the mirror image.
    assert rows["A first"] == ["0.909", "0.051", "0.030", "0.010", "0.990"]
    assert rows["B first"] == ["0.909", "0.051", "0.010", "0.030", "0.990"]
    assert "verdict: 1, A is less distorted (confidence 0.93)" in text
    assert "would not learn" not in text


@pytest.mark.parametrize(
    ("prompt", "domain", "said"),
    [
        ("a person", None, "human (asked of the judge)"),
        ("a boat", None, "general (asked of the judge)"),
        ("a person", "general", "general"),
        (None, None, "general"),
    ],
)
def test_the_prompt_says_the_domain_unless_it_is_given(
    videos: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, prompt: str | None, domain: Domain | None, said: str
) -> None:
    judge = BrightnessJudge()
    assert f"domain {said}\n" in printed(videos, judge, monkeypatch, prompt, domain)
    assert judge.calls[0][0].domain == said.split()[0]


def test_a_doubtful_pair_says_why_a_run_would_drop_it(
    videos: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(videos, FirstJudge(), monkeypatch)
    assert "A run would not learn from this pair: the two orders name different videos." in text


def test_a_file_that_is_no_video_is_said_before_the_judge_is_started(
    videos: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos[1].write_bytes(b"no video")
    monkeypatch.setattr(by_hand, "Ranker", lambda config: pytest.fail("the judge was started"))
    with pytest.raises(ValueError, match=r"b\.mp4: not a video"):
        by_hand.rank_by_hand(
            RankerConfig(path=str(JUDGE)), *videos, prompt=None, domain=None, console=Console(file=io.StringIO())
        )


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((480, 832), r"takes \d,\d+ tokens, and ranker\.max_model_len = 1024"),
        ((8, 1800), r"cannot read frames of 1800 x 8"),
    ],
)
def test_files_that_the_judge_does_not_take_are_named_before_it_is_started(
    videos: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], says: str
) -> None:
    video(videos[1], height=shape[0], width=shape[1])
    monkeypatch.setattr(by_hand, "Ranker", lambda config: pytest.fail("the judge was started"))
    config, console = RankerConfig(path=str(JUDGE), max_model_len=1024, frames=9), Console(file=io.StringIO())
    with pytest.raises(ValueError, match=rf"a\.mp4 \(48 x 32\) and .*b\.mp4 \({shape[1]} x {shape[0]}\): .*{says}"):
        by_hand.rank_by_hand(config, *videos, prompt=None, domain="human", console=console)
    with pytest.raises(ValueError, match=r"has no domain, and asking the judge"):
        by_hand.rank_by_hand(config, videos[0], videos[0], prompt="a cup " * 2000, domain=None, console=console)


def test_what_the_engine_refuses_is_a_sentence(videos: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"a\.mp4 and .*b\.mp4: too long a question"):
        printed(videos, Choosy(), monkeypatch)
