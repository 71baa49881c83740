"""What can be known to be wrong without torch or ray: the files a config names, and whether this machine is large
enough. `apogee check` prints all of it at once; `start_checks.py` knows the rest and needs torch for it.
"""

import importlib.util
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from actors.made_for import made_for
from actors.prompts import read_prompts
from buffers.store.pair_store import PairStore
from cluster.checks.resources import check_resources, needs
from configs.schema import RunConfig
from configs.sections import RankerConfig
from policy.bundle import BundleFacts, check_bundle
from ranker.judges.adapter_files import check_adapters, named_adapters
from ranker.judges.checkpoint import check_checkpoint, longest_prompt


@dataclass(frozen=True)
class Preflight:
    """`problems`: a sentence each that names the key or file and what would be right; empty if all is well.

    `facts`: the bundle's, and `latent_shape` `[channels, frames, height, width]` of this config's videos in it; None
    where there is no usable bundle. `prompts`: how many prompts each prompt key has.
    """

    problems: tuple[str, ...]
    facts: BundleFacts | None
    latent_shape: tuple[int, int, int, int] | None
    prompts: dict[str, int]


def preflight(config: RunConfig) -> Preflight:
    """Look at every file the config names. Collects all problems and raises none."""
    problems: list[str] = []
    facts, shape = _bundle(config, problems)
    prompts = _prompts(config, problems)
    _people(config, facts, problems)
    _ranker(config, problems)
    _meter(config, problems)
    _start_from(config, problems)
    _gpus(config, problems)
    _room(config, problems)
    return Preflight(tuple(problems), facts, shape, prompts)


def check_judge(config: RankerConfig) -> None:
    """Raises FileNotFoundError or ValueError unless the checkpoint and every adapter of it can be served."""
    check_checkpoint(Path(config.path))
    check_adapters(named_adapters(config.adapters), Path(config.path), key="ranker.adapters")


def _ranker(config: RunConfig, problems: list[str]) -> None:
    ranker, sampling = config.ranker, config.sampling
    if all(stage.kind == "offline" for stage in config.stages):
        return  # nobody is asked
    if ranker.kind == "function":
        _module_of("ranker.function", ranker.function, problems)
        return
    try:
        check_judge(ranker)
        tokens = longest_prompt(
            Path(ranker.path),
            frames=min(ranker.frames, sampling.num_frames),
            height=sampling.height,
            width=sampling.width,
            fps=sampling.fps,
            max_pixels_per_video=ranker.max_pixels_per_video,
        )
    except (ValueError, OSError) as error:
        problems.append(str(error))
        return
    if tokens > ranker.max_model_len:
        problems.append(
            f"ranker.max_model_len = {ranker.max_model_len}: a question about two videos of this size takes up to "
            f"{tokens} tokens; raise it, or lower ranker.frames or ranker.max_pixels_per_video"
        )


def _bundle(config: RunConfig, problems: list[str]) -> tuple[BundleFacts | None, tuple[int, int, int, int] | None]:
    facts = None
    sampling = config.sampling
    try:
        facts = check_bundle(config.model.path)
        return facts, facts.latent_shape(sampling.num_frames, sampling.height, sampling.width)
    except (ValueError, OSError) as error:
        message = str(error)
        problems.append(message if "model.path" in message else f"model.path = {config.model.path}: {message}")
        return facts, None


def _prompts(config: RunConfig, problems: list[str]) -> dict[str, int]:
    counts = {}
    for key, path in (("prompts.train", config.prompts.train), ("evaluation.prompts", config.evaluation.prompts)):
        try:
            counts[key] = len(read_prompts(path, max_characters=config.prompts.max_characters))
        except (ValueError, OSError) as error:
            problems.append(f"{key} = {path}: {error}")
    return counts


def _people(config: RunConfig, facts: BundleFacts | None, problems: list[str]) -> None:
    """The store of people's own pairs is there, is of this bundle, and holds as many as the run will take."""
    where = config.buffer.offline
    if where is None or facts is None:
        return
    try:
        belongs = made_for(facts, max_text_tokens=config.model.max_text_tokens)
        store = PairStore(where, write=False, made_for=belongs)
        held = len(store)
        store.close()
    except (ValueError, OSError) as error:
        problems.append(f"buffer.offline = {where}: {error}")
        return
    wanted = 0
    for number, stage in enumerate(config.stages):
        merged = config.of_stage(number)
        uses, share = merged.buffer.max_uses, merged.buffer.mix.offline
        wanted += ceil(stage.steps * merged.learner.pairs_per_step * share)
        if share and wanted > held * uses:
            problems.append(
                f"buffer.offline = {where}: holds {held:,} pairs, which may be used {uses} times (buffer.max_uses); "
                f"{stage.steps:,} steps of {merged.learner.pairs_per_step} pairs with buffer.mix.offline = {share:g} "
                f"take {wanted:,} with those of earlier stages, and would wait for ever for the rest"
            )


def _meter(config: RunConfig, problems: list[str]) -> None:
    """The module can be found; whether it holds the function is known when the evaluator imports it."""
    _module_of("evaluation.meter", config.evaluation.meter, problems)


def _module_of(key: str, path: str | None, problems: list[str]) -> None:
    if path is None:
        return
    module = path.partition(":")[0]
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        problems.append(
            f"{key} = {path}: there is no module {module}; write `package.module:function`, as it is "
            "imported from the working directory"
        )


def _start_from(config: RunConfig, problems: list[str]) -> None:
    """An adapter is there; whether it fits the model is known when it is read."""
    start = config.start_from
    if start is not None and not any(Path(start).glob("*.safetensors")):
        problems.append(
            f"start_from = {start}: no adapter is there (a .safetensors file); name a folder such as the `adapter` "
            "that a run leaves"
        )


def _gpus(config: RunConfig, problems: list[str]) -> None:
    """A generator, a learner worker and a ranker are one process on one device each."""
    for need in needs(config):
        if need.gpus > 1:
            problems.append(
                f"{need.role}: {need.gpus:g} GPUs for one process ({need.role}.gpus_per_*), which uses one, and the "
                f"others would stand idle; use 1, and raise {need.key} for more processes"
            )


def _room(config: RunConfig, problems: list[str]) -> None:
    """Only where the config itself says how large the machine is; otherwise Ray is asked when it is there."""
    cpus = config.cluster.num_cpus
    if cpus is None:
        return
    gpus = sum(need.count * need.gpus for need in needs(config))
    try:
        check_resources(needs(config), [{"CPU": float(cpus), "GPU": gpus}])
    except ValueError as error:
        problems.append(f"cluster.num_cpus = {cpus}: {error}")
