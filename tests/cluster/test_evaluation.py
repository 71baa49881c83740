import asyncio

import pytest

from buffers.records import Condition, Request
from cluster.evaluation import evaluate, evaluation_requests
from tests.cluster.handles import InProcessHandle

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


def test_clips_are_measured_in_the_order_of_the_requests_however_fast_each_generator_is():
    class Generator:
        def __init__(self, seconds: float) -> None:
            self.seconds, self.now, self.most = seconds, 0, 0

        async def generate(self, request: Request) -> tuple[str, tuple[int, int]]:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(self.seconds)
            self.now -= 1
            return "candidates are not measured", request.seeds[0]

    class Evaluator:
        """Takes one call after another, as an actor does with the calls of one caller."""

        def __init__(self) -> None:
            self.measured: list[tuple[str, int]] = []

        def measure(self, phase: str, clips: tuple[int, int]) -> int:
            self.measured.append((phase, clips[0]))
            return 2

        def summary(self, phase: str) -> dict[str, int]:
            return {"videos": 2 * len(self.measured)}

    told: list[int] = []
    generators, evaluator = [Generator(0.02), Generator(0.001)], Evaluator()
    requests = evaluation_requests(CONDITIONS, videos=20, seed=0, conditions_per_request=1)

    async def story() -> dict[str, int]:
        return await evaluate(
            "before",
            requests,
            generators=[InProcessHandle(generator) for generator in generators],
            evaluator=InProcessHandle(evaluator, ordered=True),
            requests_in_flight=2,
            measured=told.append,
        )

    assert asyncio.run(story()) == {"videos": 20}
    assert told == list(range(2, 21, 2))
    assert evaluator.measured == [("before", seed) for seed in range(0, 20, 2)]
    assert all(generator.most <= 4 for generator in generators)
