"""A bundle's transformers without their weights, for questions that shapes and names answer before any GPU time."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from policy.bundle import check_bundle


def skeleton(path: str | Path) -> tuple[dict[str, WanTransformer3DModel], Any]:
    """The experts on torch's meta device (no memory, no weights read) and the bundle's scheduler.

    Raises what `check_bundle` raises.
    """
    facts = check_bundle(path)
    transformers = {}
    with torch.device("meta"):
        for name in facts.experts:
            config: Any = WanTransformer3DModel.load_config(facts.path, subfolder=name)
            model: Any = WanTransformer3DModel.from_config(config)
            transformers[name] = model
    return transformers, getattr(diffusers, facts.scheduler).from_pretrained(facts.path, subfolder="scheduler")
