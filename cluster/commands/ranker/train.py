"""`apogee ranker train CONFIG`: the judge's fine-tuning on Ray Train, one adapter a domain; the same command goes on.

What it leaves in `out`: `config.yaml`, `metrics.jsonl`, `report.html`, `checkpoints/`, `logs/`, and `<domain>/`, an
adapter as PEFT writes it, which `ranker.adapters` of a run's config names.
"""

import asyncio
import contextlib
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import yaml
from transformers import AutoConfig, Qwen3VLForConditionalGeneration

from buffers.people.labelled_pairs import LabelledPair
from cluster.checks.resources import Need, check_resources
from cluster.commands.ranker.pair_files import usable_pairs
from cluster.learn_steps import in_thread
from cluster.monitor.log_file import logs_to
from cluster.monitor.metrics import MetricsLog
from cluster.monitor.progress import Progress
from cluster.on_ray.connect import connected
from cluster.on_ray.crew import nodes, ray_gauge
from cluster.on_ray.learner_worker import sum_over_ranks, worker_group
from cluster.report.judge_training import write_training_report
from configs.paths import absolute
from configs.ranker import RankerTrainingConfig
from media.whole import whole_folder
from ranker.judges.adapter_files import check_adapters, named_adapters
from ranker.judges.checkpoint import check_checkpoint
from ranker.training.examples import ExampleStream
from ranker.training.finetune import FIGURES, Finetune, check_targets

PATHS = ("path", "pairs", "start_from.human", "start_from.general")
SHOWN_EVERY_SECONDS = 1.0
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def train_ranker(config: RankerTrainingConfig) -> Path:
    """Train what is not there yet and return the folder.

    Raises ValueError or OSError before Ray starts where config, checkpoint, manifest or a video file is wrong, or where
    `out` holds a run of another config.
    """
    config = absolute(config, *PATHS, local=config.cluster.address == "local")
    check_checkpoint(Path(config.path), key="path")
    with torch.device("meta"):
        check_targets(Qwen3VLForConditionalGeneration(AutoConfig.from_pretrained(config.path)), config.lora.targets)
    earlier = named_adapters(config.start_from)
    for domain, rank in check_adapters(earlier, Path(config.path), key="start_from").items():
        if rank != config.lora.rank:
            raise ValueError(
                f"start_from.{domain}: {earlier[domain]} is of rank {rank}, want lora.rank = {config.lora.rank}"
            )
    pairs = _pairs_by_domain(config)
    folder = _open(config)
    left = [domain for domain in config.domains if not (folder / domain).exists()]
    with Progress(config.steps) as progress, logs_to(folder / "logs" / "driver.log"):
        progress.phase("start")
        needed = [
            Need("train worker", "num_workers", config.num_workers, config.cpus_per_worker, config.gpus_per_worker)
        ]
        with connected(config.cluster, on_gpus=config.gpus_per_worker > 0, logs=folder / "logs"):
            check_resources(needed, nodes())
            try:
                for domain in left:
                    progress.phase(domain)
                    _train_domain(config, domain, pairs[domain], folder, progress)
            finally:
                write_training_report(folder, config)
    return folder


def _train_domain(
    config: RankerTrainingConfig, domain: str, pairs: list[LabelledPair], folder: Path, progress: Progress
) -> None:
    metrics = ray.remote(num_cpus=0)(MetricsLog).remote(
        folder / "metrics.jsonl", run=config.name, started=time.time(), domain=domain, gauge=ray_gauge
    )
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"config": config, "domain": domain, "pairs": pairs, "metrics": metrics},
        scaling_config=worker_group(config),
        run_config=ray.train.RunConfig(
            name=domain,
            storage_path=str(folder / "checkpoints"),
            failure_config=ray.train.FailureConfig(max_failures=config.cluster.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    result = asyncio.run(_fit(trainer, metrics, progress))
    checkpoint = Path(result.checkpoint.path)
    ray.get(metrics.close.remote())
    with whole_folder(folder / domain) as unfinished:
        for name in ADAPTER_FILES:
            shutil.copyfile(checkpoint / name, unfinished / name)


async def _fit(trainer: Any, metrics: Any, progress: Progress) -> Any:
    """Ray Train's result; meanwhile the newest step is shown."""
    fitting = asyncio.ensure_future(in_thread(trainer.fit))
    while not fitting.done():
        with contextlib.suppress(Exception):  # an actor that cannot answer just now is asked again later
            row = await metrics.latest.remote("step")
            progress.update(**{key: row[key] for key in ("step", *FIGURES)} if row else {})
        await asyncio.wait([fitting], timeout=SHOWN_EVERY_SECONDS)
    return fitting.result()


def _worker(given: dict[str, Any]) -> None:
    """Ray Train's function: every rank takes its share of each step; the next step's videos are read meanwhile."""
    config: RankerTrainingConfig = given["config"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    finetune = Finetune(config, device=ray.train.torch.get_device(), reduce=sum_over_ranks if world_size > 1 else None)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            finetune.restore(Path(folder))
    elif given["domain"] in (earlier := named_adapters(config.start_from)):
        finetune.load_adapter(earlier[given["domain"]])
    stream = ExampleStream(given["pairs"], config)
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(stream.take, finetune.steps, rank=rank)
        while finetune.steps < config.steps:
            examples = following.result()
            following = reader.submit(stream.take, finetune.steps + 1, rank=rank)
            started = time.perf_counter()
            row = finetune.step(examples)
            if rank == 0:
                row |= {"name": given["domain"], "step_s": time.perf_counter() - started}
                given["metrics"].record.remote("step", row)
            if finetune.steps % config.checkpoint_every == 0 or finetune.steps == config.steps:
                _report(finetune, rank=rank)


def _report(finetune: Finetune, *, rank: int) -> None:
    """Every rank has to call it, rank 0 brings the files."""
    if rank:
        ray.train.report({"step": finetune.steps})
        return
    with tempfile.TemporaryDirectory() as folder:
        finetune.save(Path(folder))
        ray.train.report({"step": finetune.steps}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _pairs_by_domain(config: RankerTrainingConfig) -> dict[str, list[LabelledPair]]:
    """Raises ValueError also where a domain has none."""
    pairs = usable_pairs(Path(config.pairs), skip_bad_rows=config.skip_bad_rows)
    found = {domain: [pair for pair in pairs if pair.domain == domain] for domain in config.domains}
    for domain, of_it in found.items():
        if not of_it:
            raise ValueError(f"pairs = {config.pairs}: holds no usable pair of domain {domain!r}; drop it from domains")
        ExampleStream(of_it, config)
    return found


def _open(config: RankerTrainingConfig) -> Path:
    """The folder with the resolved config in it; one that is there must be of the same config."""
    folder = Path(config.out)
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    written = folder / "config.yaml"
    if written.exists() and written.read_text(encoding="utf-8") != resolved:
        raise ValueError(
            f"out = {folder} holds a training of another config (config.yaml differs); give the same config to go on "
            "with it, or another out"
        )
    written.write_text(resolved, encoding="utf-8")
    return folder
