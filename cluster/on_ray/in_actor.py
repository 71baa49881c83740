"""What small actors use of Ray. A module of its own: their processes load it, and torch and diffusers cost 12 s."""

from pathlib import Path
from typing import Any

import ray
from ray.util.metrics import Gauge

from buffers.records import Snapshot


def ray_gauge(name: str, tag_keys: tuple[str, ...]) -> Any:
    """A Ray gauge; Ray exports it as `ray_<name>`. Ray wants it made inside the metrics actor."""
    return Gauge(name, description=name.replace("_", " "), tag_keys=tag_keys)


def weights_of_before(checkpoints: Path) -> Snapshot | None:
    """In an actor in the place of a dead one: the weights that generators held at the run's newest state."""
    if not ray.get_runtime_context().was_current_actor_reconstructed:
        return None
    from cluster import run_state  # torch, which the first actor does not need

    state = run_state.newest(checkpoints)
    return state and (run_state.published(state) or run_state.snapshot(state))
