"""The same prompts and seeds before and after: what is asked of the generators, and who measures what they make.

Ray-free: it runs over handles, like `online_loop.py`. Nothing measured here ever reaches the loop.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from buffers.records import Condition, Request


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
    chunks = (slots[i : i + conditions_per_request] for i in range(0, len(slots), conditions_per_request))
    return [Request(tuple(c for c, _ in chunk), tuple(seeds for _, seeds in chunk)) for chunk in chunks]


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

    for index, request in enumerate(requests):
        generator = generators[index % len(generators)]
        _, clips = generator.generate.options(num_returns=2).remote(request)
        waiting.append(evaluator.measure.remote(phase, clips))
        await settle(requests_in_flight * len(generators) - 1)
    await settle(0)
    return await evaluator.summary.remote(phase)
