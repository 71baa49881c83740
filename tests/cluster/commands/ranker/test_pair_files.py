"""Kinds of pairs for a judge, and what becomes of each; docs/inputs.md says what this holds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.commands.ranker.pair_files import Context, usable_pairs
from configs.ranker import SlowMotionConfig
from configs.sections import RankerConfig
from tests.cluster.commands.ranker.videos import manifest, video
from tests.inputs import READ, says

JUDGE = Path("examples/miniature/weights/judge")
BAD = "bad.mp4"

PAIRS: dict[str, tuple[Callable[[Path], object], str]] = {
    "two videos of one size": (lambda file: video(file), READ),
    "another size, which the judge scales down": (lambda file: video(file, height=64, width=48), READ),
    "frames longer than Qwen3-VL takes (8 x 1800)": (
        lambda file: video(file, height=8, width=1800),
        "bad.mp4 (1800 x 8) … cannot read frames of 1800 x 8",
    ),
    "a question longer than the judge's context": (
        lambda file: video(file, height=480, width=832),
        "bad.mp4 (832 x 480) … takes … tokens, and ranker.max_model_len = 1024; use smaller videos",
    ),
    "a better video too short to be slowed": (
        lambda file: video(file, frames=4),
        "bad.mp4: has 4 frames; a video that is slowed needs at least 5. Set slow_motion.share.general to 0",
    ),
    "a file that is no video": (lambda file: file.write_bytes(b"no video" * 40), "bad.mp4: not a video"),
    "no file": (lambda file: None, "b = 'bad.mp4': no such file"),
}


@pytest.fixture(scope="module")
def context() -> Context:
    config = RankerConfig(path=str(JUDGE), frames=9, max_model_len=1024)
    of = Context.of(config)
    return replace(of, slow_motion=SlowMotionConfig())


@pytest.mark.parametrize(("make", "words"), PAIRS.values(), ids=list(PAIRS))
def test_a_pair_is_asked_or_named_before_the_judge_is_started(
    make: Callable[[Path], object], words: str, context: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, other = video(tmp_path / "good.mp4"), video(tmp_path / "other.mp4", level=30)
    make(tmp_path / BAD)
    rows = manifest(tmp_path, (good, other), (other, tmp_path / BAD), label=2)
    if words == READ:
        pairs, problems = usable_pairs(rows, context, skip_bad_rows=False)
        assert len(pairs) == 2 and problems == []
        return
    with pytest.raises(ValueError) as refused:
        usable_pairs(rows, context, skip_bad_rows=False)
    assert says(str(refused.value), words), refused.value
    (pair,), (problem,) = usable_pairs(rows, context, skip_bad_rows=True)
    assert (pair.a, pair.b) == (good, other) and says(problem, words)
    assert says(capsys.readouterr().out, f"left out: … {words}")
