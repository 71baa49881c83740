"""The judge without its weights: what the names and shapes of its layers can answer before any GPU time."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Qwen3VLForConditionalGeneration

from policy.weight_files import check_weights, read_headers


def check_judge_weights(folder: Path) -> Any:
    """The checkpoint's model on torch's meta device, if the weight files are those of config.json.

    Raises FileNotFoundError or ValueError if they are not, and ValueError that names config.json if no model can be
    made of it.
    """
    try:
        with torch.device("meta"):
            model = Qwen3VLForConditionalGeneration(AutoConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # a value that the class does not expect can fail in any way
        raise ValueError(f"{folder / 'config.json'}: no Qwen3-VL model can be made of it ({error})") from error
    check_weights(read_headers(folder, "model.safetensors"), model, folder / "config.json")
    return model
