import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ranker.judges.adapter_files import adapter_version, check_adapter

LAYER = "model.language_model.layers.0.mlp.up_proj"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "judge"
    folder.mkdir()
    save_file({f"{LAYER}.weight": np.zeros((12, 8), np.float32)}, folder / "model.safetensors")
    return folder


def adapter(folder: Path, *, layer: str = LAYER, rank: int = 4, wide: int = 8, tall: int = 12) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    name = f"base_model.model.{layer}.lora_"
    tensors = {f"{name}A.weight": np.zeros((rank, wide), np.float32), f"{name}B.weight": np.ones((tall, rank))}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_one_that_fits_has_a_rank_and_a_version(tmp_path: Path, checkpoint: Path) -> None:
    folder = adapter(tmp_path / "human")
    assert check_adapter(folder, checkpoint, key="ranker.adapters.human") == 4
    name, _, digest = adapter_version(folder).partition("@")
    assert name == "human" and len(digest) == 8
    assert adapter_version(adapter(tmp_path / "other", rank=2)).partition("@")[2] != digest


@pytest.mark.parametrize(
    "given",
    [
        {"wide": 16},
        {"tall": 8},
        {"layer": "model.language_model.layers.9.mlp.up_proj"},
        {"layer": "model.visual.blocks.0.attn.proj"},
    ],
)
def test_one_of_another_base_is_refused(given: dict, tmp_path: Path, checkpoint: Path) -> None:
    folder = adapter(tmp_path / "human", **given)
    with pytest.raises(ValueError, match=r"ranker\.adapters\.human: .*human does not fit .*judge"):
        check_adapter(folder, checkpoint, key="ranker.adapters.human")


def test_what_is_no_adapter_is_named(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"key: .*adapter_config\.json is missing"):
        check_adapter(tmp_path / "nowhere", checkpoint, key="key")
    folder = adapter(tmp_path / "human")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"key: .*human is no LoRA adapter"):
        check_adapter(folder, checkpoint, key="key")
