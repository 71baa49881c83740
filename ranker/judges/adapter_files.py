"""A domain's LoRA adapter on disk, checked against the checkpoint that it is served with. Reads headers only."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from buffers.records import Domain
from configs.sections import AdaptersConfig
from policy.weight_files import READ_DTYPES, read_headers, read_json
from ranker.judges.checkpoint import checkpoint_version

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def named_adapters(config: AdaptersConfig) -> dict[Domain, Path]:
    """The folders of the domains that have one."""
    folders: dict[Domain, str | None] = {"human": config.human, "general": config.general}
    return {domain: Path(folder) for domain, folder in folders.items() if folder is not None}


def check_adapter(folder: Path, checkpoint: Path, *, key: str) -> int:
    """The adapter's rank, if it is a LoRA adapter of this Qwen3-VL checkpoint's language model.

    Raises FileNotFoundError or ValueError that begins with `key` and names what is missing, is no adapter, or does not
    fit: a layer that the checkpoint lacks or has in another size.
    """
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{key}: {folder / name} is missing; want a folder that PEFT has written")
    try:
        rank = read_json(folder / ADAPTER_CONFIG)["r"]
        held = read_headers(folder, ADAPTER_WEIGHTS)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{key}: {folder} is no LoRA adapter ({error})") from error
    for name, tensor in held.items():
        other = name.replace("lora_A", "lora_B") if "lora_A" in name else name.replace("lora_B", "lora_A")
        if tensor.dtype not in READ_DTYPES or other not in held:
            why = f"is {tensor.dtype}, a quantised one" if other in held else f"stands without {other}"
            raise ValueError(f"{key}: {tensor.file}: {name} {why}; want an adapter as PEFT writes it")
    shapes = {name: list(tensor.shape) for name, tensor in held.items()}
    base = {name: tensor.shape for name, tensor in read_headers(checkpoint, "model.safetensors").items()}
    if not shapes:
        raise ValueError(f"{key}: {folder / ADAPTER_WEIGHTS} holds no weights")
    for name, shape in shapes.items():
        layer, _, kind = name.removeprefix(PREFIX).rpartition(".lora_")
        held = base.get(f"{layer}.weight")
        fits = held is not None and shape == ([rank, held[1]] if kind.startswith("A") else [held[0], rank])
        if ".language_model." not in layer or not fits:
            found = f"{held[0]} x {held[1]}" if held else "none such"
            raise ValueError(
                f"{key}: {folder} does not fit {checkpoint}: {name} is {shape}, the checkpoint's layer is {found}; it "
                "was made for another one"
            )
    return int(rank)


def check_adapters(adapters: Mapping[Domain, Path], checkpoint: Path, *, key: str) -> dict[Domain, int]:
    """The rank of each domain's adapter. Raises as `check_adapter` does, naming `key.<domain>`."""
    return {domain: check_adapter(folder, checkpoint, key=f"{key}.{domain}") for domain, folder in adapters.items()}


def judge_versions(checkpoint: Path, adapters: Mapping[Domain, Path]) -> dict[Domain, str]:
    """Which weights judge a domain, such as `judge@c8a12476+human@01ab23cd`."""
    base = checkpoint_version(checkpoint)
    return {
        domain: f"{base}+{adapter_version(adapters[domain])}" if domain in adapters else base
        for domain in get_args(Domain)
    }


def adapter_version(folder: Path) -> str:
    """`folder name@hash`: the first eight digits of the weights' sha256."""
    with (folder / ADAPTER_WEIGHTS).open("rb") as file:
        return f"{folder.resolve().name}@{hashlib.file_digest(file, 'sha256').hexdigest()[:8]}"
