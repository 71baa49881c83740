"""The same prompts and seeds before and after: what is asked of the generators, and who measures or compares them.

With a meter, the evaluator measures every video. Without a meter, the run's own ranker compares each video after
training with the one before it. A run with neither makes only the videos that the report shows. No Ray here: it runs
over handles, like `online_loop.py`. Nothing measured here ever reaches the loop.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from buffers.figures import Value
from buffers.portions import portions
from buffers.records import Condition, Preference, Request, Verdict
from configs.schema import RunConfig
from configs.sections import RankerConfig
from ranker.verdict import doubts


def is_judged(config: RunConfig) -> bool:
    """Whether the run's ranker compares the videos after training with those before."""
    return config.evaluation.meter is None and config.asks_ranker


def videos_made(config: RunConfig) -> int:
    """How many videos each evaluation makes. A condition always makes two, so this is even."""
    evaluation = config.evaluation
    compared = evaluation.meter is not None or is_judged(config)
    videos = evaluation.videos if compared else min(evaluation.videos, evaluation.shown_videos)
    return videos + videos % 2


def videos_kept(config: RunConfig) -> int:
    """How many videos of each evaluation are kept as files: all that are not measured."""
    return config.evaluation.shown_videos if config.evaluation.meter is not None else videos_made(config)


def evaluation_requests(
    conditions: Sequence[Condition], *, videos: int, seed: int, conditions_per_request: int
) -> list[Request]:
    """At least `videos` videos (a condition always makes two), the conditions in turn, video i with seed `seed + i`.

    A pure function of its arguments, hence the same before and after.
    """
    slots = [
        (condition, (seed + 2 * index, seed + 2 * index + 1))
        for index, condition in enumerate(itertools.islice(itertools.cycle(conditions), (videos + 1) // 2))
    ]
    of_requests = (zip(*some, strict=True) for some in portions(slots, conditions_per_request))
    return [Request(conditions, seeds) for conditions, seeds in of_requests]


async def evaluate(
    phase: str,
    requests: Sequence[Request],
    *,
    generators: Sequence[Any],
    evaluator: Any,
    requests_in_flight: int,
    measured: Callable[[int], None] = lambda videos: None,
) -> dict[str, Any]:
    """Generate every request and have its clips measured under `phase`; return the evaluator's summary.

    `measured` is told how many videos have been measured so far, whenever there are more.
    The clips travel from generator to evaluator by reference. They are measured in the order of the requests, so that
    the videos that are kept are the same ones in every phase, however many generators there are.
    """
    waiting: list[Any] = []
    videos = 0

    async def settle(limit: int) -> None:
        nonlocal videos
        while len(waiting) > limit:
            videos += await waiting.pop(0)
            measured(videos)

    for request, generator in zip(requests, itertools.cycle(generators), strict=False):
        _, clips = generator.generate.options(num_returns=2).remote(request)
        waiting.append(evaluator.measure.remote(phase, clips))
        await settle(requests_in_flight * len(generators) - 1)
    await settle(0)
    return await evaluator.summary.remote(phase)


async def compare(
    phase: str, *, evaluator: Any, rankers: Sequence[Any], config: RankerConfig, videos: int, at_once: int
) -> dict[str, Any]:
    """Have the rankers compare every video of `phase` with the one before training; returns the evaluator's summary.

    Each ranker is asked about `at_once` pairs at a time. The videos travel from evaluator to ranker by reference.
    """

    async def judge(first: int, ranker: Any) -> None:
        pairs = evaluator.before_and_after.remote(phase, first, at_once)
        preferences: list[Preference] = await ranker.rank.remote(pairs)
        outcomes = [outcome(each, first + place, config) for place, each in enumerate(preferences)]
        await evaluator.judged.remote(phase, first, outcomes)

    for start in range(0, videos, at_once * len(rankers)):
        places = range(start, min(videos, start + at_once * len(rankers)), at_once)
        await asyncio.gather(*(judge(first, ranker) for first, ranker in zip(places, rankers, strict=False)))
    return await evaluator.summary.remote(phase)


def outcome(preference: Preference, number: int, config: RankerConfig) -> dict[str, Value]:
    """The judge's answer about video `number` as figures: win, tie or loss of after against before.

    A dropped or doubtful answer is a tie, and its reason is counted. That motion has decided enough pairs already is no
    doubt. The video after training is A of every odd pair (`Evaluator.before_and_after`).
    """
    doubt = None if preference.dropped == "motion_share" else preference.dropped
    if doubt is None and isinstance(preference, Verdict):
        doubt = next(iter(doubts(preference, config)), None)
    wins = preference.a_is_chosen == (number % 2 == 1)
    net = 0.0 if doubt else 1.0 if wins else -1.0
    return {"net win rate": net, "win": net > 0, "tie": net == 0, "loss": net < 0, "why a tie": doubt or ""}
