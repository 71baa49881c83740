"""What can be known to be wrong before Ray starts and GPU time is spent: the files, and what needs torch to know it."""

import os
from pathlib import Path

import torch

from actors.evaluator import Evaluator
from actors.made_for import made_for
from actors.prompts import read_prompts
from buffers.records import Condition
from cluster.checks.resources import check_resources, needs
from cluster.checks.run import preflight
from configs.schema import RunConfig
from configs.sections import AdaptersConfig
from learner.timesteps import check_timesteps
from policy.lora.adapters import add_adapters, check_lora
from policy.policy import skeleton
from ranker.judges.adapter_files import named_adapters
from ranker.judges.function import FunctionRanker


def absolute(config: RunConfig) -> RunConfig:
    """The config with `out` as an absolute path and, where Ray runs on this machine, every other path too.

    On a cluster that is joined the other paths stay as they are: they have to mean the same on every node.
    """
    changes: dict[str, object] = {"out": here(config.out)}
    if config.cluster.address == "local":
        adapters = adapters_here(config.ranker.adapters)
        changes |= {
            "model": config.model.model_copy(update={"path": here(config.model.path)}),
            "ranker": config.ranker.model_copy(
                update={"path": here(config.ranker.path) if config.ranker.path else "", "adapters": adapters}
            ),
            "prompts": config.prompts.model_copy(update={"train": here(config.prompts.train)}),
            "start_from": here(config.start_from) if config.start_from else None,
            "evaluation": config.evaluation.model_copy(update={"prompts": here(config.evaluation.prompts)}),
        }
    return config.model_copy(update=changes)


def here(path: str | Path) -> str:
    """As an absolute path of this machine."""
    return str(Path(path).expanduser().absolute())


def adapters_here(adapters: AdaptersConfig) -> AdaptersConfig:
    """Each domain's folder as an absolute path of this machine."""
    return adapters.model_copy(update={domain: here(path) for domain, path in named_adapters(adapters).items()})


def start_checks(config: RunConfig) -> tuple[list[Condition], list[Condition], dict[str, str]]:
    """Check all of it; return the training conditions, the held-out ones, and what the bundle's latents belong to.

    Raises ValueError that names the key or file, the value, and what would be right.
    """
    found = preflight(config)
    if found.problems or found.facts is None:
        raise ValueError("\n".join(found.problems))
    transformers, scheduler = skeleton(config.model.path)
    stages = [config.of_stage(number) for number in range(len(config.stages))]
    for stage in stages:
        timesteps, steps = stage.learner.timesteps, stage.sampling.steps
        check_timesteps(timesteps, scheduler, steps, boundary_ratio=found.facts.boundary_ratio)
    if len({stage.learner.lora.model_dump_json() for stage in stages}) > 1:
        raise ValueError("stages.*.learner.lora: one adapter goes through all stages; give learner.lora for the run")
    add_adapters(transformers, config.learner.lora, seed=config.seed)
    if config.start_from is not None:
        check_lora(config.start_from, transformers)
    Evaluator(config.evaluation.meter, config.run_folder, 0, config.sampling.fps)  # imports the meter
    if config.ranker.function is not None and config.ranker.kind == "function":
        FunctionRanker(config.ranker)
    if config.cluster.address == "local":
        cpus = config.cluster.num_cpus or os.cpu_count() or 1
        check_resources(needs(config), [{"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}])
    longest = config.prompts.max_characters
    return (
        read_prompts(config.prompts.train, max_characters=longest),
        read_prompts(config.evaluation.prompts, max_characters=longest),
        made_for(found.facts, max_text_tokens=config.model.max_text_tokens),
    )
