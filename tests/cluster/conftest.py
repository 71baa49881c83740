"""One small Ray for all tests of this folder that need one: starting it is what costs."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local Ray of the kind that `cluster.on_ray.connect` starts, for a config that asks for four CPUs."""
    from cluster.on_ray.connect import connected
    from configs.load import load_config

    config = load_config(Path("configs/miniature.yaml"), ["cluster.num_cpus=4"])
    with connected(config.cluster, on_gpus=False, logs=tmp_path_factory.mktemp("ray")):
        yield
