"""The judge without its weights: what the names and shapes of its layers can answer before any GPU time."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Qwen3VLForConditionalGeneration

from policy.weight_files import check_weights, read_headers


def judge_skeleton(folder: Path) -> Any:
    """The checkpoint's model on torch's meta device. Raises ValueError that names config.json if none can be made."""
    try:
        with torch.device("meta"):
            return Qwen3VLForConditionalGeneration(AutoConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # a value that the class does not expect can fail in any way
        raise ValueError(f"{folder / 'config.json'}: no Qwen3-VL model can be made of it ({error})") from error


def check_judge_weights(folder: Path) -> None:
    """Raises FileNotFoundError or ValueError unless the checkpoint's weight files are those of its config.json."""
    check_weights(read_headers(folder, "model.safetensors"), judge_skeleton(folder), folder / "config.json")
