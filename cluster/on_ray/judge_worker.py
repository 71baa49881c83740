"""What every process of the Ray Train group runs that fine-tunes the judge: build or restore it, then step."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray

from buffers.people.labelled_pairs import LabelledPair
from cluster.monitor.metrics import MetricsLog
from cluster.on_ray.in_actor import ray_gauge
from cluster.on_ray.train_group import device, ranks, train_group
from configs.ranker import RankerTrainingConfig
from media.whole import step_folder, step_folders
from ranker.judges.adapter_files import named_adapters
from ranker.training.examples import ExampleStream
from ranker.training.finetune import Finetune


def judge_group(config: RankerTrainingConfig, domain: str, pairs: list[LabelledPair], folder: Path) -> tuple[Any, Any]:
    """The group that trains a domain's adapter, and the actor that keeps its metrics.

    Its states are below `states_of(folder, domain)`, each with the adapter in it as PEFT writes it.
    """
    metrics = ray.remote(num_cpus=0)(MetricsLog).remote(
        folder / "metrics.jsonl", started=time.time(), domain=domain, gauge=ray_gauge
    )
    states = states_of(folder, domain)
    given = {"config": config, "domain": domain, "pairs": pairs, "metrics": metrics, "states": states}
    restarts, logs = config.cluster.max_failures, folder / "logs"
    group = train_group(judge_worker, given, section=config, name=domain, logs=logs, restarts=restarts)
    return group, metrics


def states_of(folder: Path, domain: str) -> Path:
    """Where the states of a domain's training are, a folder a step."""
    return folder / "checkpoints" / domain


def judge_worker(given: dict[str, Any]) -> None:
    """Every rank takes its share of each step; the next step's videos are read meanwhile.

    Pairs that cannot be read are told to `metrics`. If none of the domain can be, all ranks end without an error: the
    group would only be restarted.
    """
    config: RankerTrainingConfig = given["config"]
    domain, states, mesh = given["domain"], given["states"], ranks()
    finetune = Finetune(config, device=device(), reduce=mesh.reduce)
    if saved := step_folders(states):
        finetune.restore(saved[-1])
    elif domain in (earlier := named_adapters(config.start_from)):
        finetune.load_adapter(earlier[domain])
    stream, told = ExampleStream(given["pairs"], config), set[str]()
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(stream.take, finetune.steps, rank=mesh.data_rank)
        while finetune.steps < config.steps:
            try:
                examples = following.result()
            except ValueError:
                examples = None
            for why in stream.left_out.keys() - told:
                given["metrics"].record.remote("left_out", {"name": domain, "why": why})
                told.add(why)
            if not mesh.agree(examples is not None) or examples is None:
                return
            following = reader.submit(stream.take, finetune.steps + 1, rank=mesh.data_rank)
            started = time.perf_counter()
            row = finetune.step(examples)
            if mesh.data_rank:
                continue
            row |= {"name": domain, "step_s": time.perf_counter() - started}
            given["metrics"].record.remote("step", row)
            if finetune.steps % config.checkpoint_every == 0 or finetune.steps == config.steps:
                with step_folder(states, finetune.steps) as unfinished:
                    finetune.save(unfinished)
