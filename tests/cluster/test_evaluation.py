import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.evaluator import Evaluator
from buffers.figures import figures_of, text_counts
from buffers.records import Condition, Request, Scores, ShownVideos, Verdict
from cluster.evaluation import compare, evaluate, evaluation_requests, outcome, videos_kept, videos_made
from cluster.handles import InProcessHandle
from configs.load import load_config
from configs.sections import RankerConfig, SamplingConfig
from ranker.judges.function import FunctionRanker

FIGURES = {"brightness": ("higher", "of 255")}
CONDITIONS = [Condition("a", "prompt a"), Condition("b", "prompt b"), Condition("c", "prompt c")]


@pytest.mark.parametrize(("videos", "per_request"), [(8, 3), (2, 1), (12, 6), (10, 4)])
def test_every_video_has_its_own_seed_and_the_conditions_take_turns(videos: int, per_request: int):
    requests = evaluation_requests(CONDITIONS, videos=videos, seed=100, conditions_per_request=per_request)
    conditions = [condition for request in requests for condition in request.conditions]
    seeds = [seed for request in requests for pair in request.seeds for seed in pair]
    assert seeds == list(range(100, 100 + videos))
    assert conditions == [CONDITIONS[i % 3] for i in range(videos // 2)]
    assert all(len(request.conditions) == per_request for request in requests[:-1])
    assert 1 <= len(requests[-1].conditions) <= per_request


def test_every_video_has_its_number_however_fast_each_generator_is_and_also_if_one_dies():
    class Lost(Exception):
        pass

    class Generator:
        def __init__(self, seconds: float, *, dies: bool = False) -> None:
            self.seconds, self.now, self.most, self.dies = seconds, 0, 0, dies

        async def show(self, request: Request, sampling: SamplingConfig, snapshot: str) -> tuple[int, ...]:
            assert snapshot == "the policy"
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(self.seconds)
            self.now -= 1
            if self.dies and request.seeds[0][0] >= 4:
                raise Lost
            return request.seeds[0]

    class Evaluator:
        def __init__(self) -> None:
            self.measured: list[tuple[str, int, tuple[int, ...]]] = []

        def measure(self, phase: str, first: int, shown: tuple[int, ...], keep: bool) -> int:
            self.measured.append((phase, first, shown))
            return len(shown)

        def summary(self, phase: str) -> dict[str, int]:
            return {"videos": 2 * len(self.measured)}

    told: list[int] = []
    generators = [Generator(0.02, dies=True), Generator(0.001)]
    handles, evaluator = [InProcessHandle(generator) for generator in generators], Evaluator()
    requests = evaluation_requests(CONDITIONS, videos=20, seed=0, conditions_per_request=1)

    def recover(error: BaseException, actor: Any) -> bool:
        handles[0] = InProcessHandle(Generator(0.001))
        return isinstance(error, Lost)

    async def story() -> dict[str, int]:
        return await evaluate(
            "before",
            requests,
            generators=handles,
            evaluator=InProcessHandle(evaluator),
            sampling=SamplingConfig(steps=10, guidance_scale=2.0, guidance_to=0.5),
            snapshot="the policy",
            requests_in_flight=2,
            measured=told.append,
            recover=recover,
        )

    assert asyncio.run(story()) == {"videos": 20, "passes": 15}
    assert told == list(range(2, 21, 2))
    assert sorted(evaluator.measured) == [("before", seed, (seed, seed + 1)) for seed in range(0, 20, 2)]
    assert all(generator.most <= 4 for generator in generators)


class Painter:
    """A generator whose videos are as bright as its policy says; the second of each condition is black."""

    def __init__(self, brightness: int) -> None:
        self.brightness = brightness

    def show(self, request: Request, sampling: SamplingConfig, snapshot: None) -> list[ShownVideos]:
        videos = tuple(np.full((3, 32, 32, 3), level, np.uint8) for level in (self.brightness, 0))
        return [ShownVideos(condition, videos, 8.0, 0, 0.5) for condition in request.conditions]


def brightness(frames: np.ndarray, prompt: str) -> float:
    assert frames.shape == (3, 32, 32, 3), "the judge sees videos at the size that they were made with"
    return float(frames.mean())


def test_an_evaluation_goes_on_after_a_kill_with_the_videos_of_the_same_policy(tmp_path: Path):
    requests = evaluation_requests(CONDITIONS, videos=12, seed=0, conditions_per_request=1)

    class Dying(Painter):
        """`shows` requests, then none."""

        def __init__(self, shows: int) -> None:
            super().__init__(200)
            self.left = shows

        def show(self, request: Request, sampling: SamplingConfig, snapshot: None) -> list[ShownVideos]:
            self.left -= 1
            if self.left < 0:
                raise ConnectionError
            return super().show(request, sampling, snapshot)

    def evaluated(shows: int, journal: Path, *, version: int) -> dict[str, Any]:
        evaluator = Evaluator(f"{__name__}:meter", tmp_path, 0, 8.0, journal=journal)
        made = evaluate(
            "before",
            requests,
            generators=[InProcessHandle(Dying(shows))],
            evaluator=InProcessHandle(evaluator),
            sampling=SamplingConfig(),
            version=version,
            requests_in_flight=1,
        )
        return asyncio.run(made)

    whole = evaluated(6, tmp_path / "whole.jsonl", version=0)
    with pytest.raises(ConnectionError):
        evaluated(4, tmp_path / "measured.jsonl", version=0)
    with pytest.raises(ConnectionError):
        evaluated(5, tmp_path / "measured.jsonl", version=1)  # of another policy nothing is there
    assert evaluated(2, tmp_path / "measured.jsonl", version=0) == whole
    assert evaluated(0, tmp_path / "measured.jsonl", version=0) == whole


def meter(frames: np.ndarray, prompt: str) -> dict[str, float]:
    return {"brightness": brightness(frames, prompt)}


@pytest.mark.parametrize(("after", "wins", "losses"), [(200, 3, 0), (20, 0, 3)])
def test_without_a_meter_the_judge_compares_after_with_before_also_in_another_process(
    tmp_path: Path, after: int, wins: int, losses: int
):
    requests = evaluation_requests(CONDITIONS, videos=6, seed=0, conditions_per_request=2)
    judge = RankerConfig(kind="function", function=f"{__name__}:brightness")

    async def story() -> dict[str, Any]:
        rankers = [InProcessHandle(FunctionRanker(judge)) for _ in range(2)]
        for phase, level in (("before", 100), ("after", after)):
            evaluator = InProcessHandle(Evaluator(None, tmp_path, 6, 8.0), ordered=True)  # knows nothing of before
            painter = InProcessHandle(Painter(level))
            asked = {"generators": [painter], "evaluator": evaluator, "sampling": SamplingConfig()}
            await evaluate(phase, requests, **asked, requests_in_flight=1)
        return await compare("after", evaluator=evaluator, rankers=rankers, config=judge, videos=6, at_once=2)

    summary = asyncio.run(story())
    figures = figures_of(summary["measured"], summary["about"])
    # The first videos of the three conditions differ in brightness, the second ones are black on both sides.
    assert [figures[name]["count"] for name in ("win", "tie", "loss")] == [wins, 3, losses]
    assert figures["net win rate"]["value"] == (wins - losses) / 6
    assert (figures["net win rate"]["of"], figures["net win rate"]["prompts"]) == (6, 3)
    assert text_counts(summary["measured"]) == {"why a tie": {"tie": 3}}
    assert len(list(tmp_path.rglob("*.mp4"))) == 12


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("a_is_chosen", [True, False])
def test_which_side_is_after_alternates(number: int, a_is_chosen: bool):
    found = outcome(Scores(1.0, 0.0) if a_is_chosen else Scores(0.0, 1.0), number, RankerConfig(path="x"))
    after_is_chosen = a_is_chosen == (number == 1)
    assert (found["win"], found["loss"], found["tie"]) == (after_is_chosen, not after_is_chosen, False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"dropped": "motion_share"}, ""),
        ({"dropped": "lost"}, "lost"),
        ({"agreed": False}, "disagreement"),  # also if the config keeps such pairs
        ({"probabilities": (0.55, 0.45, 0.0, 0.0)}, "low_confidence"),
    ],
)
def test_a_dropped_or_doubtful_verdict_is_a_tie(changes: dict[str, Any], reason: str):
    sure: dict[str, Any] = {"probabilities": (0.9, 0.1, 0.0, 0.0), "agreed": True, "dropped": None} | changes
    verdict = Verdict(
        1, label_mass=1.0, first_shown=1, domain="general", rubric_version="1", ranker_version="x", **sure
    )
    found = outcome(verdict, 1, RankerConfig(path="x", disagreement="keep", low_confidence="keep"))
    assert (found["why a tie"], found["tie"], found["win"]) == (reason, bool(reason), not reason)


@pytest.mark.parametrize(
    ("overrides", "made", "kept"),
    [
        ([], 240, 24),
        (["evaluation.meter=null"], 240, 240),
        (["evaluation.meter=null", "stages.0.kind=offline", "buffer.offline=people"], 24, 24),
        (
            ["evaluation.meter=null", "stages.0.kind=offline", "buffer.offline=people", "evaluation.shown_videos=0"],
            0,
            0,
        ),
    ],
)
def test_no_video_is_made_that_is_neither_measured_nor_judged_nor_kept(overrides: list[str], made: int, kept: int):
    config = load_config(Path("configs/miniature.yaml"), overrides)
    assert (videos_made(config), videos_kept(config)) == (made, kept)
