"""What can be known to be wrong before Ray starts and GPU time is spent: the files, and what needs torch to know it."""

import os
from pathlib import Path

import torch

from actors.evaluator import Evaluator
from actors.prompts import read_prompts
from buffers.records import Condition
from cluster.preflight import preflight
from cluster.resources import check_resources, needs
from configs.schema import RunConfig
from learner.timesteps import check_timesteps
from policy.adapters import add_adapters
from policy.skeleton import skeleton


def absolute(config: RunConfig) -> RunConfig:
    """The config with `out` as an absolute path and, where Ray runs on this machine, every other path too.

    On a cluster that is joined the other paths stay as they are: they have to mean the same on every node.
    """
    changes: dict[str, object] = {"out": str(Path(config.out).expanduser().absolute())}
    if config.cluster.address == "local":
        for section, key in (("model", "path"), ("ranker", "path"), ("prompts", "train"), ("evaluation", "prompts")):
            path = Path(getattr(getattr(config, section), key)).expanduser().absolute()
            changes[section] = getattr(config, section).model_copy(update={key: str(path)})
    return config.model_copy(update=changes)


def start_checks(config: RunConfig) -> tuple[list[Condition], list[Condition]]:
    """Check all of it and return the training conditions and the held-out ones.

    Raises ValueError that names the key or file, the value, and what would be right.
    """
    found = preflight(config)
    if found.problems or found.facts is None:
        raise ValueError("\n".join(found.problems))
    transformers, scheduler = skeleton(config.model.path)
    check_timesteps(
        config.learner.timesteps, scheduler, config.sampling.steps, boundary_ratio=found.facts.boundary_ratio
    )
    add_adapters(transformers, config.learner.lora, seed=config.seed)
    Evaluator(config.evaluation.meter, config.run_folder, 0, config.sampling.fps)  # imports the meter
    if config.cluster.address == "local":
        cpus = config.cluster.num_cpus or os.cpu_count() or 1
        check_resources(needs(config), [{"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}])
    longest = config.prompts.max_characters
    return (
        read_prompts(config.prompts.train, max_characters=longest),
        read_prompts(config.evaluation.prompts, max_characters=longest),
    )
