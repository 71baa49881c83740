"""A Qwen3-VL checkpoint folder, as far as its small files tell: what it is, which one, and how long its prompts get."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

from tokenizers import Tokenizer

from buffers.people.fingerprints import fingerprint_of
from buffers.records import Domain
from configs.keys import shown
from policy.weight_files import read_headers, read_json
from ranker.rubric import VIDEO, domain_prompt, prompt_text


def check_checkpoint(folder: Path, *, key: str = "ranker.path") -> dict[str, Any]:
    """The folder's config.json, if it is a dense Qwen3-VL checkpoint with weights and a tokenizer.

    Raises FileNotFoundError or ValueError that begins with `key` and names what is missing or of another kind.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{key}: no folder {folder}; it must be a local Qwen3-VL checkpoint folder")
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{key}: {path} is missing; {folder} is no Qwen3-VL checkpoint folder")
    try:
        config = read_json(path)
        if (kind := config.get("model_type")) != "qwen3_vl":
            raise ValueError(f"{path} has model_type {kind!r}; a Qwen3-VL checkpoint has 'qwen3_vl'")
        if config.get("quantization_config"):
            raise ValueError(f"{path} has quantization_config; quantised weights are not read, use the original ones")
        read_headers(folder, "model.safetensors")
    except (ValueError, OSError) as error:
        raise type(error)(f"{key}: {error}") from error
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{key}: {folder} has no tokenizer.json")
    return config


def checkpoint_version(folder: Path) -> str:
    """`folder name@hash`: the first eight digits of the weight files' fingerprint."""
    return f"{folder.resolve().name}@{fingerprint_of(folder.glob('*.safetensors'))[:8]}"


def longest_prompt(
    folder: Path, *, frames: int, height: int, width: int, fps: float, max_pixels_per_video: int, framed: bool = False
) -> int:
    """Tokens of a question about two videos of this size with `frames` shown of each, its one answer included.

    An upper bound that is reached unless the pixel budget shrinks the videos: text and timestamps by the checkpoint's
    own tokenizer, patches by its vision config. Raises ValueError if these files cannot be read.
    """
    length = _length(folder)
    try:
        vision = read_json(folder / "config.json")["vision_config"]
        side = vision["patch_size"] * vision["spatial_merge_size"]
        slices = math.ceil(frames / vision["temporal_patch_size"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"ranker.path: {folder} is no Qwen3-VL checkpoint folder ({error!r})") from error
    whole = max(1, round(height / side)) * max(1, round(width / side))
    allowed = max_pixels_per_video // (slices * vision["temporal_patch_size"] * side**2)
    latest = length(f"<{frames / fps:.1f} seconds>{VIDEO}") - 1
    text = max(length(prompt_text(domain, framed=framed)) for domain in get_args(Domain)) - 2  # the two places
    return text + 2 * slices * (latest + min(whole, max(1, allowed))) + 1


def check_descriptions(folder: Path, descriptions: Iterable[str], *, tokens: int) -> None:
    """Raises ValueError if the question which domain fits a description takes more than `tokens`, with its answer."""
    length, fixed = _length(folder), len(domain_prompt("").encode())
    # A token is a byte or more: shorter texts need not be counted.
    long = (text for text in descriptions if fixed + len(text.encode()) >= tokens)
    counted = [(count, text) for text in long if (count := length(domain_prompt(text)) + 1) > tokens]
    if counted:
        count, text = max(counted)
        raise ValueError(
            f"{shown(text)} has no domain, and asking the judge which one fits takes {count:,} tokens; "
            f"ranker.max_model_len = {tokens}. Say its domain, shorten it, or raise ranker.max_model_len (prompts that "
            f"are too long to be asked: {len(counted)})"
        )


def _length(folder: Path) -> Callable[[str], int]:
    """How many tokens a text has."""
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises nothing more special
        raise ValueError(f"ranker.path: {folder} is no Qwen3-VL checkpoint folder ({error!r})") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
