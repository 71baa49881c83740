"""A learner on disk: one safetensors file, written whole or not at all, never a pickle.

Its tensors are `adapter/NAME`, `reference/NAME`, `optimizer/NAME` and `published/NAME`; its metadata holds the other
facts as JSON, and a sha256 of all of it. A file that does not have that sha256 is not loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from buffers.tensors import checksum, encode
from media.whole import whole_file

FORMAT = 5
GROUPS = ("adapter", "reference", "optimizer", "published")


@dataclass(frozen=True)
class LearnerState:
    """All that a learner needs to go on bit for bit; there is no random state, since draws are keyed by (seed, step).

    `adapter`, `reference`: parameter name -> CPU tensor, as `policy.lora.adapters.adapter_state` names them; the
    reference is empty if it is the base. `optimizer`: what `LoraOptimizer.state` gives; its step counts fall behind
    `steps` if an expert was not in every window. `published`: the adapter that generators hold, empty if it is
    `adapter`. `run`: what the run around the learner needs, as JSON.
    """

    seed: int
    steps: int
    adapter: dict[str, Tensor]
    reference: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    published: dict[str, Tensor]
    run: dict[str, Any]


def save_checkpoint(file: Path, state: LearnerState) -> None:
    """Writes the file whole. Raises FileExistsError if it is there, OSError if the disk refuses."""
    if file.exists():
        raise FileExistsError(f"{file} exists; a checkpoint is never overwritten")
    tensors = {f"{group}/{name}": t.contiguous() for group in GROUPS for name, t in getattr(state, group).items()}
    written = json.dumps({"format": FORMAT, "seed": state.seed, "steps": state.steps, "run": state.run})
    with whole_file(file) as unfinished:
        save_file(tensors, unfinished, metadata={"facts": written, "sha256": _sha256(written, tensors)})


def load_checkpoint(file: Path) -> LearnerState:
    """Reads a checkpoint and checks its sha256.

    Raises FileNotFoundError that names the missing file, ValueError that names the file if it is torn or was changed,
    or has a format that is unknown.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        facts = json.loads(metadata.get("facts", ""))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} is torn or not a checkpoint: {error}") from error
    if facts.pop("format") != FORMAT:
        raise ValueError(f"{file} has another checkpoint format; this version reads {FORMAT}")
    if metadata.get("sha256") != _sha256(metadata["facts"], tensors):
        raise ValueError(f"{file} was changed: its sha256 is not the one it was written with")
    groups: dict[str, Any] = {group: {} for group in GROUPS}
    for key, tensor in tensors.items():
        group, name = key.split("/", 1)
        groups[group][name] = tensor
    return LearnerState(**facts, **groups)


def _sha256(facts: str, tensors: Mapping[str, Tensor]) -> str:
    content = checksum({name: encode(tensor) for name, tensor in tensors.items()})
    return hashlib.sha256(f"{facts}{content}".encode()).hexdigest()
