"""One Ray Train group: so many processes that train one model, and how they reach each other; for policy and judge.

Nothing is reported to Ray Train. Rank 0 writes the state as a folder, and a group that is restarted reads the same
folder as a command that is given again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from configs.sections import Training
from learner.mesh import Mesh


def train_group(
    worker: Callable[[dict[str, Any]], None],
    given: dict[str, Any],
    *,
    section: Training,
    name: str,
    logs: Path,
    restarts: int,
) -> Any:
    """A group whose `fit()` runs `worker(given)` in `section.num_workers` processes and blocks until all have ended.

    restarts: how often Ray Train itself begins the group anew if it fails.
    """
    gpus = {"GPU": section.gpus_per_worker} if section.gpus_per_worker else {}
    each = {"CPU": section.cpus_per_worker, **gpus}
    failures = ray.train.FailureConfig(max_failures=restarts)
    scaling = ray.train.ScalingConfig(num_workers=section.num_workers, use_gpu=bool(gpus), resources_per_worker=each)
    run = ray.train.RunConfig(name=name, storage_path=str(logs / "train"), failure_config=failures)
    return ray.train.torch.TorchTrainer(worker, train_loop_config=given, scaling_config=scaling, run_config=run)


def device() -> torch.device:
    """The one that Ray Train gave this process."""
    return ray.train.torch.get_device()  # pyright: ignore[reportReturnType]


def ranks() -> Mesh:
    """This process among those of its group."""
    context = ray.train.get_context()
    size = context.get_world_size()
    return Mesh(context.get_world_rank(), size, _sum_over_ranks, _all_ranks) if size > 1 else Mesh()


def _sum_over_ranks(flat: torch.Tensor) -> None:
    """In place; gloo on CPUs, NCCL on GPUs."""
    dist.all_reduce(flat, op=dist.ReduceOp.SUM)


def _all_ranks(answer: bool) -> bool:
    """Whether every rank says yes; also the point at which they wait for each other."""
    asked = torch.tensor([int(answer)], device=device())
    dist.all_reduce(asked, op=dist.ReduceOp.MIN)
    return bool(asked.item())
