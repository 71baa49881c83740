"""Fixtures that several packages' tests share. Nothing heavy is imported before a test asks for it."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random-weight Wan2.1-like bundle (one expert, UniPC with shift 3, VAE 4 x 4 x 4). Do not write to it."""
    from tests.policy.tiny_bundle import save_tiny_bundle

    return save_tiny_bundle(tmp_path_factory.mktemp("bundle") / "one")


@pytest.fixture(scope="session")
def tiny_bundle_two_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random-weight Wan2.2-A14B-like bundle (two experts, boundary 0.875, VAE 4 x 8 x 8). Do not write to it."""
    from tests.policy.tiny_bundle import save_tiny_bundle

    return save_tiny_bundle(tmp_path_factory.mktemp("bundle") / "two", experts=2)
