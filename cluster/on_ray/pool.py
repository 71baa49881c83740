"""Actors that encode or decode, on the resources that a config gives its generators."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import ray

from cluster.checks.resources import Need
from cluster.on_ray.connect import connected
from cluster.on_ray.placement import wait_for_room
from configs.schema import RunConfig


class Pool:
    """Actors of one class that take turns. They keep nothing that the next call needs."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._most, self._turns = 2 * len(actors), cycle(actors)

    def call(self, method: str, *given: Any) -> Future:
        """Asks the actor whose turn it is; the future has its answer, or raises its error."""
        return getattr(next(self._turns), method).remote(*given).future()

    def each(self, method: str, given: Iterable[Any]) -> Iterator[Any]:
        """The answers about each of the given, in order. At most two calls per actor are under way."""
        calls: deque[Future] = deque()
        for some in given:
            calls.append(self.call(method, some))
            if len(calls) == self._most:
                yield calls.popleft().result()
        while calls:
            yield calls.popleft().result()


@contextmanager
def pool(config: RunConfig, role: type, *given: Any, logs: Path, **named: Any) -> Iterator[Pool]:
    """`generator.num_actors` of a plain class, on a Ray that lasts as long as the block.

    `given`, `named`: what the class takes after the config's model, whose path is made absolute. A lost actor is made
    anew by Ray, up to `cluster.max_failures` times, and asked again.
    """
    section, cluster = config.generator, config.cluster
    need = Need("encoder", "generator.num_actors", section.num_actors, section.cpus_per_actor, section.gpus_per_actor)
    model = config.model.model_copy(update={"path": str(Path(config.model.path).resolve())})
    with connected(cluster, on_gpus=need.gpus > 0, logs=logs):
        wait_for_room([need], cluster)
        failures = {"max_restarts": cluster.max_failures, "max_task_retries": cluster.max_failures}
        made = ray.remote(role).options(num_cpus=need.cpus, num_gpus=need.gpus, **failures)
        device = "cuda" if need.gpus else "cpu"
        yield Pool([made.remote(model, *given, device=device, **named) for _ in range(section.num_actors)])
