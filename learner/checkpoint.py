"""A learner on disk: safetensors and json, written whole or not at all, never a pickle.

A checkpoint is a folder: `tensors.safetensors` with `adapter/NAME`, `reference/NAME` and `optimizer/NAME`; and
`learner.json`, which is written last and holds the size and sha256 of the other file. A folder without it, or one that
differs from it, is not loaded.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from media.whole import whole_folder

FORMAT = 3
TENSORS, MANIFEST = "tensors.safetensors", "learner.json"
GROUPS = ("adapter", "reference", "optimizer")


@dataclass(frozen=True)
class LearnerState:
    """All that a learner needs to go on bit for bit; there is no random state, since draws are keyed by (seed, step).

    `adapter`, `reference`: parameter name -> CPU tensor, as `policy.lora.adapters.adapter_state` names them; the
    reference is empty if it is the base. `optimizer`: what `LoraOptimizer.state` gives; its step counts fall behind
    `steps` if an expert was not in every window. `run`: what the run around the learner needs, as JSON.
    """

    seed: int
    steps: int
    version: int
    adapter: dict[str, Tensor]
    reference: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    run: dict[str, Any]


def save_checkpoint(folder: Path, state: LearnerState) -> None:
    """Writes `folder` whole, as `whole_folder` does, and raises what that raises."""
    with whole_folder(folder) as unfinished:
        tensors = {
            f"{group}/{name}": tensor.contiguous() for group in GROUPS for name, tensor in getattr(state, group).items()
        }
        save_file(tensors, unfinished / TENSORS)
        manifest = {
            "format": FORMAT,
            "seed": state.seed,
            "steps": state.steps,
            "version": state.version,
            "run": state.run,
            "tensors": _fingerprint(unfinished / TENSORS),
        }
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1))


def load_checkpoint(folder: Path) -> LearnerState:
    """Reads a checkpoint and checks size and sha256 of its tensors.

    Raises FileNotFoundError that names the missing folder or file, ValueError that names the file that is torn or the
    format that is unknown.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint folder at {folder}")
    for name in (MANIFEST, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not a whole checkpoint: {name} is missing")
    manifest = _read_manifest(folder / MANIFEST)
    written, found = manifest["tensors"], _fingerprint(folder / TENSORS)
    if written != found:
        raise ValueError(
            f"{folder / TENSORS} is torn or was changed: {found['bytes']} bytes, sha256 {found['sha256']:.12}; "
            f"{MANIFEST} says {written['bytes']} bytes, sha256 {written['sha256']:.12}"
        )
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    for key, tensor in load_file(folder / TENSORS).items():
        group, name = key.split("/", 1)
        groups[group][name] = tensor
    return LearnerState(
        seed=manifest["seed"], steps=manifest["steps"], version=manifest["version"], run=manifest["run"], **groups
    )


def _read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is torn: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise ValueError(f"{path} has checkpoint format {found!r}; this version reads {FORMAT}")
    missing = {"seed", "steps", "version", "run", "tensors"} - manifest.keys()
    if missing:
        raise ValueError(f"{path} lacks {sorted(missing)}")
    return manifest


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
