"""Actors that encode or decode, on the resources that a config gives its generators."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from cluster.checks.resources import Need, check_resources
from cluster.on_ray.connect import connected
from cluster.on_ray.crew import nodes
from configs.schema import RunConfig


@contextmanager
def pool(config: RunConfig, role: type, *given: Any, logs: Path, **named: Any) -> Iterator[list[Any]]:
    """`generator.num_actors` of a plain class, on a Ray that lasts as long as the block.

    They hold nothing that the next call needs: Ray makes a lost one anew, up to `cluster.max_failures` times, and asks
    it again.
    """
    section, cluster = config.generator, config.cluster
    need = Need("encoder", "generator.num_actors", section.num_actors, section.cpus_per_actor, section.gpus_per_actor)
    with connected(cluster, on_gpus=section.gpus_per_actor > 0, logs=logs):
        check_resources([need], nodes())
        made = ray.remote(role).options(
            num_cpus=section.cpus_per_actor,
            num_gpus=section.gpus_per_actor,
            max_restarts=cluster.max_failures,
            max_task_retries=cluster.max_failures,
        )
        device = "cuda" if section.gpus_per_actor > 0 else "cpu"
        yield [made.remote(*given, device=device, **named) for _ in range(section.num_actors)]
