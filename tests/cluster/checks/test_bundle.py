import shutil
from pathlib import Path

import pytest

from cluster.checks.bundle import encoded_by
from policy.bundle import check_bundle


@pytest.mark.parametrize(
    ("part", "changed"), [("vae", {"VAE"}), ("text_encoder", {"text encoder"}), ("transformer", set())]
)
def test_what_encoded_latents_changes_with_vae_and_text_encoder(
    tiny_bundle: Path, tmp_path: Path, part: str, changed: set[str]
):
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    parts = encoded_by(check_bundle(tiny_bundle), max_text_tokens=16)
    assert encoded_by(check_bundle(copy), max_text_tokens=16) == parts
    assert parts["size of latents"] == "16 channels, 1 in 4 x 4 x 4"
    weights = next((copy / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    found = encoded_by(check_bundle(copy), max_text_tokens=16)
    assert {key for key, value in found.items() if value != parts[key]} == changed
