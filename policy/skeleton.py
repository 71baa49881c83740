"""A bundle's models without their weights: what names, shapes and config files can answer before any GPU time."""

# pyright: reportPrivateImportUsage=false

import copy
from typing import Any

import diffusers
import torch
import transformers

from policy.bundle import CLASSES, BundleFacts

WALKED_STEPS = 6

LEAST_SHARE = 0.9
"""Of the text encoder's tokens that its own tokenizer knows, at least."""


def skeleton(facts: BundleFacts, component: str) -> Any:
    """An expert, the text encoder or the VAE on torch's meta device: no memory, no weights read.

    Raises ValueError that names the config file if the class cannot be made of it, whatever the reason.
    """
    folder, name = facts.path / component, CLASSES[component]
    try:
        with torch.device("meta"):
            if component.endswith("_encoder"):
                config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
                return getattr(transformers, name)(config)
            kind = getattr(diffusers, name)
            return kind.from_config(kind.load_config(folder, local_files_only=True))
    except Exception as error:  # a value that the class does not expect can fail in any way
        raise ValueError(f"{folder / 'config.json'}: no {name} can be made of it ({error})") from error


def load_scheduler(facts: BundleFacts) -> Any:
    """The bundle's own. Raises ValueError that names the config file if it cannot be made, or does not end in numbers.

    Some settings of UniPC divide by the last sigma, which is 0.
    """
    file = facts.path / "scheduler" / "scheduler_config.json"
    try:
        scheduler = getattr(diffusers, facts.scheduler).from_pretrained(file.parent, local_files_only=True)
        walked, latents = copy.deepcopy(scheduler), torch.ones(1, 1, 1)
        walked.set_timesteps(WALKED_STEPS)
        for timestep in walked.timesteps:
            latents = walked.step(latents, timestep, latents, return_dict=False)[0]
    except Exception as error:  # as above
        raise ValueError(f"{file}: no {facts.scheduler} can be made of it that works ({error})") from error
    if not latents.isfinite().all():
        raise ValueError(f"{file}: its videos are not finite; want solver_type = bh2 and lower_order_final = true")
    return scheduler


def load_tokenizer(facts: BundleFacts) -> Any:
    """The bundle's own, as its pipeline loads it.

    Raises ValueError that names its folder if it cannot be loaded, has no vocabulary (all prompts would be the same to
    the model), or knows more tokens than the text encoder.
    """
    folder = facts.path / "tokenizer"
    try:
        tokenizer = getattr(transformers, facts.tokenizer).from_pretrained(folder, local_files_only=True)
        known = tokenizer.get_vocab()
    except Exception as error:  # as above
        raise ValueError(f"{folder}: no {facts.tokenizer} can be made of it ({error})") from error
    if len(ordinary_words(tokenizer)) < 2:
        raise ValueError(
            f"{folder} holds no vocabulary: every prompt would be the same to the model; download tokenizer.json again"
        )
    # The text encoder's vocabulary is only rounded up from the tokenizer's: 256,300 and 256,384 in Wan.
    if not LEAST_SHARE * facts.vocabulary <= max(known.values()) + 1 <= facts.vocabulary:
        raise ValueError(
            f"{folder}: the tokenizer has {max(known.values()) + 1} tokens and the text encoder {facts.vocabulary} "
            "(text_encoder/config.json: vocab_size): they are of different models"
        )
    return tokenizer


def ordinary_words(tokenizer: Any) -> list[str]:
    """Up to two texts that the tokenizer tells apart, made of its own vocabulary; fewer if it has none."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    texts: dict[tuple[int, ...], str] = {}
    for number in sorted({*tokenizer.get_vocab().values()} - special):
        text = tokenizer.decode([number]).strip()
        ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
        if set(ids) - special:
            texts.setdefault(ids, text)
        if len(texts) == 2:
            break
    return list(texts.values())
