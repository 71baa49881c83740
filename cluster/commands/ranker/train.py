"""`apogee ranker train CONFIG`: the judge's fine-tuning on Ray Train, one adapter a domain; the same command goes on.

What it leaves in `out`: `config.yaml`, `metrics.jsonl`, `report.html`, `checkpoints/`, `logs/`, and `<domain>/`, an
adapter as PEFT writes it, which `ranker.adapters` of a run's config names.
"""

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from buffers.people.labelled_pairs import LabelledPair
from buffers.people.manifests import listed
from cluster.checks.resources import Need
from cluster.commands.ranker.pair_files import Context, usable_pairs
from cluster.learn_steps import in_thread
from cluster.monitor.log_file import logs_to
from cluster.monitor.progress import Progress
from cluster.monitor.rows import of_kind, read_metrics
from cluster.on_ray.connect import connected
from cluster.on_ray.judge_worker import judge_group, states_of
from cluster.on_ray.placement import wait_for_room
from cluster.report.judge_training import write_training_report
from cluster.signals import until_stopped
from configs.paths import absolute
from configs.ranker import RankerTrainingConfig
from media.whole import step_folders, whole_folder
from policy.weight_files import read_json
from ranker.judges import checkpoint, skeleton
from ranker.judges.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_adapters, named_adapters
from ranker.training import examples, finetune

PATHS = ("path", "pairs", "start_from.human", "start_from.general")
SHOWN_EVERY_SECONDS = 1.0


def train_ranker(config: RankerTrainingConfig) -> Path:
    """Train what is not there yet and return the folder.

    A pair whose file turns out to be damaged once it is read is replaced by another one (`ExampleStream`), whatever
    `skip_bad_rows` is; it is printed and in the report. Raises ValueError or OSError before Ray starts if config,
    checkpoint, manifest or a video file is wrong, or if `out` holds a run of another config, and ValueError at a step
    for which no pair of a domain can be read.
    """
    config = absolute(config, *PATHS, local=config.cluster.address == "local")
    checkpoint.check_checkpoint(Path(config.path), key="path")
    finetune.check_targets(skeleton.check_judge_weights(Path(config.path)), config.lora.targets)
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
        workers = config.num_workers, config.cpus_per_worker, config.gpus_per_worker
        with connected(config.cluster, on_gpus=config.gpus_per_worker > 0, logs=folder / "logs"):
            wait_for_room([Need("train worker", "num_workers", *workers)], config.cluster)
            try:
                for domain in left:
                    progress.phase(domain)
                    _train_domain(config, domain, pairs[domain], folder, progress)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"stopped; {folder} keeps its states, and the same command goes on") from None
            finally:
                write_training_report(folder, config)
    return folder


def _train_domain(
    config: RankerTrainingConfig, domain: str, pairs: list[LabelledPair], folder: Path, progress: Progress
) -> None:
    group, metrics = judge_group(config, domain, pairs, folder)
    asyncio.run(until_stopped(_fit(group, metrics, progress)))
    rows = read_metrics(folder / "metrics.jsonl")
    left_out = [row["why"] for row in of_kind(rows, "left_out") if row["name"] == domain]
    for why in dict.fromkeys(left_out):
        print(f"left out: {why}", flush=True)
    newest = next(reversed(step_folders(states_of(folder, domain))), None)
    if newest is None or int(newest.name) < config.steps:
        raise ValueError(
            f"pairs = {config.pairs}: no pair of domain {domain!r} can be read any more; what was trained is kept in "
            f"{states_of(folder, domain)}, and the same command goes on with it\n{listed(left_out, of='files')}"
        )
    with whole_folder(folder / domain) as unfinished:
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(newest / name, unfinished / name)


async def _fit(group: Any, metrics: Any, progress: Progress) -> None:
    """Until the group has ended; meanwhile the newest step is shown."""
    fitting = asyncio.ensure_future(in_thread(group.fit))
    while not fitting.done():
        with contextlib.suppress(Exception):  # an actor that cannot answer just now is asked again later
            row = await metrics.latest.remote("step")
            progress.update(**{key: row[key] for key in ("step", *finetune.FIGURES)} if row else {})
        await asyncio.wait([fitting], timeout=SHOWN_EVERY_SECONDS)
    fitting.result()
    await metrics.close.remote()


def _context(config: RankerTrainingConfig) -> Context:
    """What the checkpoint takes in training; it is good."""
    from transformers import AutoProcessor

    text = read_json(Path(config.path) / "config.json").get("text_config", {})
    key = "max_position_embeddings of the checkpoint's config.json"
    sizes = config.frames, config.max_pixels_per_video, text.get("max_position_embeddings", sys.maxsize), key
    return Context(AutoProcessor.from_pretrained(config.path), *sizes, slow_motion=config.slow_motion)


def _pairs_by_domain(config: RankerTrainingConfig) -> dict[str, list[LabelledPair]]:
    """Raises ValueError also if a domain has none."""
    pairs, _ = usable_pairs(Path(config.pairs), _context(config), skip_bad_rows=config.skip_bad_rows)
    found = {domain: [pair for pair in pairs if pair.domain == domain] for domain in config.domains}
    for domain, of_it in found.items():
        if not of_it:
            raise ValueError(f"pairs = {config.pairs}: holds no usable pair of domain {domain!r}; drop it from domains")
        examples.ExampleStream(of_it, config)
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
