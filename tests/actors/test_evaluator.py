import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.evaluator import Evaluator
from buffers.records import Condition, ShownVideos
from media.pictures import write_png
from media.video_read import read_video

METER = f"{__name__}:measure"


FIGURES = {"distorted": ("lower", "of videos"), "motion": ("higher", "pixels per frame")}


def measure(frames: np.ndarray, prompt: str) -> dict[str, Any]:
    """Black videos are distorted; the blue of the first pixel is the motion. The values are numpy's own."""
    black = ~frames[..., 0].any()
    return {"distorted": black, "motion": np.float32(frames[0, 0, 0, 2]), "reason": "black" if black else ""}


def misnamed(frames: np.ndarray, prompt: str) -> dict[str, Any]:
    return {"distorted": False, "movement": 1.0}


def not_a_number(frames: np.ndarray, prompt: str) -> dict[str, Any]:
    return {"distorted": False, "motion": float("nan")}


def video(red: int, motion: int) -> np.ndarray:
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[..., 0], frames[..., 2] = red, motion
    return frames


def clip(number: int, *, domain: str | None, reds: tuple[int, int], motions: tuple[int, int]) -> ShownVideos:
    condition = Condition(f"c{number}", f"prompt {number}", domain)  # type: ignore[arg-type]
    return ShownVideos(condition, (video(reds[0], motions[0]), video(reds[1], motions[1])), 8.0, 0, 0.5)


CLIPS = [
    clip(0, domain="human", reds=(0, 200), motions=(10, 20)),
    clip(1, domain="general", reds=(200, 200), motions=(30, 40)),
    clip(2, domain="general", reds=(200, 200), motions=(50, 60)),
]


@pytest.fixture
def meter() -> str:
    """An import path of this file, however pytest named it."""
    return METER


def test_every_video_is_in_the_columns(tmp_path: Path, meter: str):
    evaluator = Evaluator(meter, tmp_path, 0, 8.0)
    assert evaluator.measure("before", 0, CLIPS[:1]) == 2
    assert evaluator.measure("before", 2, CLIPS[1:]) == 4
    summary = evaluator.summary("before")
    assert summary["videos"] == 6 and summary["about"]["distorted"] == {"better": "lower", "unit": "of videos"}
    assert summary["measured"] == {
        "prompt": ["prompt 0", "prompt 0", "prompt 1", "prompt 1", "prompt 2", "prompt 2"],
        "domain": ["human", "human", "general", "general", "general", "general"],
        "distorted": [True, False, False, False, False, False],
        "motion": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
        "reason": ["black", "", "", "", "", ""],
    }
    assert json.loads(json.dumps(summary)) == summary


def test_the_first_videos_of_each_phase_are_kept(tmp_path: Path, meter: str):
    evaluator = Evaluator(meter, tmp_path, 3, 8.0)
    for phase in ("before", "after"):
        evaluator.measure(phase, 0, CLIPS)
    kept = evaluator.summary("after")["kept"]
    assert [row["file"] for row in kept] == [
        "videos/after/000-a.mp4",
        "videos/after/000-b.mp4",
        "videos/after/001-a.mp4",
    ]
    assert kept[0] == {
        "file": "videos/after/000-a.mp4",
        "prompt": "prompt 0",
        "domain": "human",
        "figures": {"distorted": True, "motion": 10.0, "reason": "black"},
    }
    assert len(list((tmp_path / "videos").rglob("*.mp4"))) == 6
    frames, fps = read_video(tmp_path / kept[2]["file"])
    assert frames.shape == (3, 256, 256, 3) and fps == 8.0
    assert frames[..., 0].mean() == pytest.approx(200, abs=5)


def test_phases_are_counted_apart(tmp_path: Path, meter: str):
    evaluator = Evaluator(meter, tmp_path, 0, 8.0)
    evaluator.measure("before", 0, CLIPS)
    evaluator.measure("after", 0, CLIPS[:1])
    assert (evaluator.summary("before")["videos"], evaluator.summary("after")["videos"]) == (6, 2)
    with pytest.raises(ValueError, match=r"phase 'later', only in \['after', 'before'\]"):
        evaluator.summary("later")


def test_without_a_meter_videos_are_kept_and_nothing_is_claimed(tmp_path: Path):
    evaluator = Evaluator(None, tmp_path, 2, 8.0)
    assert evaluator.measure("before", 0, CLIPS) == 6
    summary = evaluator.summary("before")
    assert summary["videos"] == 6 and len(summary["kept"]) == 2
    assert summary["measured"] == {"prompt": [], "domain": []}
    assert set(summary["kept"][0]) == {"file", "prompt", "domain"}


def test_a_reward_that_is_learned_from_is_a_figure_beside_the_meters(tmp_path: Path, meter: str):
    evaluator = Evaluator(meter, tmp_path, 0, 8.0, lambda frames, prompt: float(frames[..., 0].mean()) / 255)
    evaluator.measure("before", 0, CLIPS)
    summary = evaluator.summary("before")
    expected = [frames[..., 0].mean() / 255 for each in CLIPS for frames in each.videos]
    assert summary["measured"]["reward"] == pytest.approx(expected)
    assert summary["about"]["reward"]["better"] == "higher" and "motion" in summary["about"]


def test_conditions_without_a_domain_are_unknown(tmp_path: Path, meter: str):
    evaluator = Evaluator(meter, tmp_path, 0, 8.0)
    evaluator.measure("before", 0, [clip(0, domain=None, reds=(0, 0), motions=(1, 1))])
    assert set(evaluator.summary("before")["measured"]["domain"]) == {"unknown"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.such.module:measure", "there is no module no.such.module"),
        ("math:no_such_function", "cannot be imported"),
        ("math", "expected `module:function`"),
        ("math:pi", "expected `module:function`"),
    ],
)
def test_a_meter_that_cannot_be_used_is_named(tmp_path: Path, path: str, message: str):
    with pytest.raises(ValueError, match=rf"evaluation.meter = {path}: {message}"):
        Evaluator(path, tmp_path, 0, 8.0)


@pytest.mark.parametrize(
    "declared", [None, ["motion"], {"motion": "higher"}, {"motion": ("larger", "pixels")}, {"motion": ("higher", None)}]
)
def test_a_meter_must_say_which_direction_is_better(
    tmp_path: Path, meter: str, declared: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(f"{__name__}.FIGURES", declared)
    with pytest.raises(ValueError, match=rf"evaluation.meter = {meter}: its module needs a constant FIGURES"):
        Evaluator(meter, tmp_path, 0, 8.0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("misnamed", r"returned the figures \['distorted', 'movement'\], and FIGURES .* \['distorted', 'motion'\]"),
        ("not_a_number", "motion is nan; it must be finite"),
    ],
)
def test_values_that_are_not_those_of_figures_are_refused_with_the_first_video(
    tmp_path: Path, function: str, message: str
):
    evaluator = Evaluator(f"{__name__}:{function}", tmp_path, 0, 8.0)
    with pytest.raises(ValueError, match=rf"evaluation.meter = .*:{function}: {message}"):
        evaluator.measure("before", 0, CLIPS)


def test_how_well_the_given_first_frame_is_kept_is_measured(tmp_path: Path):
    picture = np.full((32, 32, 3), 100, np.uint8)
    write_png(tmp_path / "given.png", picture)
    condition = Condition("c", "a cat", picture=str(tmp_path / "given.png"))
    same, near = np.stack([picture] * 2), np.stack([picture + 5, picture])
    evaluator = Evaluator(None, tmp_path, 0, 8.0)
    evaluator.measure("before", 0, [ShownVideos(condition, (same, near), 8.0, 0, 1.0)])
    summary = evaluator.summary("before")
    # 10 log10(255^2 / 5^2)
    assert summary["measured"]["first frame kept"] == [100.0, pytest.approx(34.1514, abs=1e-3)]
    assert summary["about"] == {"first frame kept": {"better": "higher", "unit": "dB"}}


def test_an_evaluator_in_the_place_of_a_dead_one_knows_what_was_measured_and_what_was_judged(tmp_path: Path):
    """It died over its third request: the line of that is torn, and the request is measured again."""
    journal, won = tmp_path / "measured.jsonl", {"net win rate": 1.0, "win": True, "tie": False, "loss": False}
    sized = Condition("c9", "prompt 9", "general", size=(16, 16))
    clips = [clip(number, domain="general", reds=(0, 9), motions=(1, number)) for number in range(2)]
    clips.append(ShownVideos(sized, (video(9, 5), video(0, 6)), 8.0, 4, 0.5))

    def evaluator() -> Evaluator:
        return Evaluator(METER, tmp_path, 2, 8.0, journal=journal)

    alone = Evaluator(METER, tmp_path, 2, 8.0)
    first = evaluator()
    for each in (alone, first):
        each.measure("after", 0, clips[:1])
        each.measure("after", 2, clips[1:2])
        each.judged("after", "before", 0, [won] * 4)
        each.measure("after", 4, clips[2:])
    content = journal.read_text()
    journal.write_text(content[: content.rindex('"videos"') + 40])
    second = evaluator()
    assert second.measure("after", 4, clips[2:]) == 2
    for each in (alone, second):
        each.judged("after", "before", 4, [won] * 2)
    third = evaluator()
    for each in (second, third):
        assert [video.condition for video in each._videos["after"].values()][-1] == sized
    assert (
        json.dumps(third.summary("after")) == json.dumps(second.summary("after")) == json.dumps(alone.summary("after"))
    )
