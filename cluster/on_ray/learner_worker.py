"""What every process of the Ray Train group runs: build or restore a learner, then `learn_steps`.

Only checkpoints are reported to Ray Train (a report costs a poll of its controller); metrics and weights go through
actors. LoRA's gradient is one small flat tensor, which one all-reduce per timestep of the window sums over the ranks.
"""

import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from buffers.records import Batch, Snapshot
from cluster.learn_steps import learn_steps
from configs.ranker import RankerTrainingConfig
from configs.schema import RunConfig
from configs.sections import LearnerConfig
from learner.checkpoint import load_checkpoint, save_checkpoint
from learner.learner import Learner
from learner.mesh import Mesh
from learner.objectives.dpo import Dpo
from policy.lora.adapters import save_lora
from policy.policy import VideoPolicy

STATE, ADAPTER = "state", "adapter"
"""In a checkpoint: what the learner goes on from, and what a user can load (diffusers' LoRA format)."""


def make_trainer(config: RunConfig, *, checkpoints: Path, buffer: Any, weights: Any, metrics: Any) -> Any:
    """The Ray Train group of this run; `fit()` blocks until the steps are done or the buffer is closed."""
    section = config.learner
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"config": config, "buffer": buffer, "weights": weights, "metrics": metrics},
        scaling_config=worker_group(section),
        run_config=ray.train.RunConfig(
            name="learner",
            storage_path=str(checkpoints),
            failure_config=ray.train.FailureConfig(max_failures=config.cluster.max_losses),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )


def worker_group(section: LearnerConfig | RankerTrainingConfig) -> Any:
    """Ray Train's ScalingConfig for `num_workers` with their CPUs and GPUs."""
    gpus = {"GPU": section.gpus_per_worker} if section.gpus_per_worker else {}
    return ray.train.ScalingConfig(
        num_workers=section.num_workers,
        use_gpu=bool(gpus),
        resources_per_worker={"CPU": section.cpus_per_worker} | gpus,
    )


def train_worker(given: dict[str, Any]) -> None:
    """Ray Train's function; `given` holds the config and the handles of buffer, weights and metrics."""
    config: RunConfig = given["config"]
    buffer, weights, metrics = given["buffer"], given["weights"], given["metrics"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    learner = build_learner(config, rank=rank, world_size=world_size)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            learner.restore(load_checkpoint(Path(folder) / STATE))

    def take(step: int) -> Batch | None:
        count = config.learner.pairs_per_step
        return ray.get(buffer.take.remote(step, count, rank=rank, world_size=world_size))

    def publish(snapshot: Snapshot) -> None:
        if rank == 0:  # by value: the store puts it, so that the weights outlive this worker
            version = ray.get(weights.publish.remote(snapshot))
            ray.get(buffer.advance.remote(version))

    def record(kind: str, row: dict[str, Any]) -> None:
        if rank == 0:
            metrics.record.remote(kind, row)

    learn_steps(
        learner,
        steps=sum(stage.steps for stage in config.stages),
        first_version=int(ray.get(weights.version.remote())) + 1,
        publish_every=config.learner.publish_every,
        checkpoint_every=config.learner.checkpoint_every,
        take=take,
        publish=publish,
        save=lambda: _save(learner, config, rank=rank),
        record=record,
        agree=_all_ranks,
    )


def build_learner(config: RunConfig, *, rank: int, world_size: int) -> Learner:
    policy = VideoPolicy.load(
        config.model.path,
        dtype=getattr(torch, config.model.dtype),
        device=ray.train.torch.get_device(),
        lora=config.learner.lora,
        seed=config.seed,
        max_text_tokens=config.model.max_text_tokens,
    )
    return Learner(
        policy,
        config.learner,
        Dpo(config.learner.beta),
        sampling_steps=config.sampling.steps,
        seed=config.seed,
        mesh=Mesh(rank, world_size, sum_over_ranks, _all_ranks) if world_size > 1 else None,
    )


def sum_over_ranks(flat: torch.Tensor) -> None:
    """In place; gloo on CPUs, NCCL on GPUs."""
    dist.all_reduce(flat, op=dist.ReduceOp.SUM)


def _all_ranks(answer: bool) -> bool:
    """Whether every rank says yes; also the point where they wait for each other."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return answer
    asked = torch.tensor([int(answer)], device=ray.train.torch.get_device())
    dist.all_reduce(asked, op=dist.ReduceOp.MIN)
    return bool(asked.item())


def _save(learner: Learner, config: RunConfig, *, rank: int) -> None:
    """Report a checkpoint; every rank has to call it, rank 0 brings the files."""
    if rank:
        ray.train.report({"step": learner.steps})
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_checkpoint(folder / STATE, learner.state())
        save_lora(folder / ADAPTER, learner.policy.transformers, config.learner.lora)
        ray.train.report({"step": learner.steps}, checkpoint=ray.train.Checkpoint.from_directory(folder))
