"""The same prompts and seeds before and after: what is asked of the generators, and who measures or compares them.

With a meter, the evaluator measures every video. Without a meter, the run's own ranker compares each video after
training with the one before it. A run with neither makes only the videos that the report shows. No Ray here: it runs
over handles, like `online_loop.py`. Nothing measured here ever reaches the loop.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from buffers.figures import Value
from buffers.portions import portions
from buffers.records import Condition, Preference, Request, Verdict
from cluster.turns import Turns
from configs.schema import RunConfig
from configs.sections import RankerConfig, SamplingConfig
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
    return requests_of(slots, conditions_per_request)


def requests_of(slots: Iterable[tuple[Condition, tuple[int, ...]]], at_once: int) -> list[Request]:
    """Requests for conditions with their noise seeds, in order; those of a request have one size."""
    runs = itertools.groupby(slots, key=lambda slot: slot[0].size)
    some = (zip(*part, strict=True) for _, run in runs for part in portions(run, at_once))
    return [Request(conditions, seeds) for conditions, seeds in some]


async def evaluate(
    phase: str,
    requests: Sequence[Request],
    *,
    generators: Sequence[Any],
    evaluator: Any,
    sampling: SamplingConfig,
    snapshot: Any = None,
    version: int | None = None,
    keep: bool = True,
    requests_in_flight: int,
    measured: Callable[[int], None] = lambda videos: None,
    recover: Callable[[BaseException, Any], bool] = lambda error, actor: False,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Generate every request and have its videos measured under `phase`; return the evaluator's summary.

    recover, deadline: as `online_loop.run` has them; a request of a lost generator is made again by the next one.

    snapshot: the policy that makes the videos, by reference; None if it is the generators' own. version: of that
    policy, if videos that were measured of it before the driver died are not to be made again. keep: as files.
    measured: is told how many videos have been measured so far, whenever there are more.
    The videos travel from generator to evaluator by reference.
    """
    at_once = asyncio.Semaphore(requests_in_flight * len(generators))
    there = set() if version is None else await evaluator.measured.remote(phase, version)
    done = len(there)

    async def make(turn: int, first: int, request: Request) -> None:
        nonlocal done
        async with at_once:
            while True:
                generator = generators[turn % len(generators)]
                try:
                    async with asyncio.timeout(deadline):
                        shown = generator.show.remote(request, sampling, snapshot)
                        count = await evaluator.measure.remote(phase, first, shown, keep)
                    done += count
                    measured(done)
                    return
                except Exception as error:
                    if not recover(error, generator):
                        raise
                turn += 1

    counts = [sum(map(len, request.seeds)) for request in requests]
    firsts = itertools.accumulate(counts, initial=0)
    missing = [
        (turn, first, request)
        for turn, (first, count, request) in enumerate(zip(firsts, counts, requests, strict=False))
        if not there.issuperset(range(first, first + count))
    ]
    making = [asyncio.ensure_future(make(*each)) for each in missing]
    try:
        await asyncio.gather(*making)
    finally:
        for task in making:
            task.cancel()
    return {**await evaluator.summary.remote(phase), "passes": sampling.passes}


async def compare(
    phase: str,
    *,
    against: str = "before",
    evaluator: Any,
    rankers: Sequence[Any],
    config: RankerConfig,
    videos: int,
    at_once: int,
    recover: Callable[[BaseException, Any], bool] = lambda error, actor: False,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Have the rankers compare every video of `phase` with that of `against`; returns the evaluator's summary.

    Each ranker is asked about `at_once` pairs at a time, again if it is lost. recover, deadline: as `evaluate` has
    them. The videos travel from evaluator to ranker by reference.
    """
    turns, asking = Turns(rankers), asyncio.Semaphore(len(rankers))

    async def judge(first: int) -> None:
        while True:
            async with asking:
                with turns.next() as ranker:
                    try:
                        async with asyncio.timeout(deadline):
                            pairs = evaluator.pairs.remote(phase, against, first, at_once)
                            preferences: list[Preference] = await ranker.rank.remote(pairs)
                        break
                    except Exception as error:
                        if not recover(error, ranker):
                            raise
        outcomes = [outcome(each, first + place, config) for place, each in enumerate(preferences)]
        await evaluator.judged.remote(phase, against, first, outcomes)

    await asyncio.gather(*map(judge, range(0, videos, at_once)))
    return await evaluator.summary.remote(phase)


def outcome(preference: Preference, number: int, config: RankerConfig) -> dict[str, Value]:
    """The judge's answer about video `number` as figures: win, tie or loss of after against before.

    A dropped or doubtful answer is a tie, and its reason is counted. That motion has decided enough pairs already is no
    doubt. The video after training is A of every odd pair (`Evaluator.pairs`).
    """
    doubt = None if preference.dropped == "motion_share" else preference.dropped
    if doubt is None and isinstance(preference, Verdict):
        doubt = next(iter(doubts(preference, config)), None)
    wins = preference.a_is_chosen == (number % 2 == 1)
    net = 0.0 if doubt else 1.0 if wins else -1.0
    return {"net win rate": net, "win": net > 0, "tie": net == 0, "loss": net < 0, "why a tie": doubt or ""}
