"""What can be known to be wrong without torch or ray: the files a config names, and whether this machine is large
enough. `apogee check` prints all of it at once; `start_checks.py` knows the rest and needs torch for it.
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from actors.prompts import read_prompts
from cluster.resources import check_resources, needs
from configs.schema import RankerConfig, RunConfig
from policy.bundle_check import BundleFacts, check_bundle
from ranker.adapter_files import check_adapter, named_adapters


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
    _ranker(config, problems)
    _meter(config, problems)
    _room(config, problems)
    return Preflight(tuple(problems), facts, shape, prompts)


def check_judge(config: RankerConfig) -> None:
    """Raises FileNotFoundError or ValueError unless the checkpoint and every adapter of it can be served."""
    check_ranker_folder(config.path)
    for domain, folder in named_adapters(config.adapters).items():
        check_adapter(folder, Path(config.path), key=f"ranker.adapters.{domain}")


def check_ranker_folder(path: str | Path, *, key: str = "ranker.path") -> None:
    """Raises FileNotFoundError or ValueError, naming `key`, unless this is a Qwen3-VL checkpoint folder."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{key}: no folder {folder}; it must be a local Qwen3-VL checkpoint folder")
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{key}: {config} is missing; {folder} is no Qwen3-VL checkpoint folder")
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{key}: {config} is not a JSON object ({error})") from error
    if kind != "qwen3_vl":
        raise ValueError(f"{key}: {config} has model_type {kind!r}; a Qwen3-VL checkpoint has 'qwen3_vl'")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{key}: {folder} holds no *.safetensors weights")
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise FileNotFoundError(f"{key}: {folder} has neither tokenizer.json nor vocab.json")


def _ranker(config: RunConfig, problems: list[str]) -> None:
    try:
        check_judge(config.ranker)
    except (ValueError, OSError) as error:
        problems.append(str(error))


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


def _meter(config: RunConfig, problems: list[str]) -> None:
    """The module can be found; whether it holds the function is known when the evaluator imports it."""
    meter = config.evaluation.meter
    if meter is None:
        return
    module = meter.partition(":")[0]
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        problems.append(
            f"evaluation.meter = {meter}: there is no module {module}; write `package.module:function`, as it is "
            "imported from the working directory"
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
