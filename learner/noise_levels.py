"""Figures of optimizer steps by noise level: which timesteps carry the signal. Plain numbers, no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

LEVELS = 10
"""Equal parts of [0, T], the cleanest first."""


def by_noise_level(steps: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """From `Learner.step`'s answers: level -> means over the pairs there, and of `grad_norm` over its timesteps.

    A level that no step visited is not there. A timestep whose pairs lie far apart (`kind: uniform`) has one gradient
    for all of them: its norm is no level's.
    """
    sums: dict[int, dict[str, float]] = {}
    norms: dict[int, list[float]] = {}
    for step in steps:
        for entry in step.get("levels", ()):
            held = sums.setdefault(entry["level"], {"pairs": 0})
            held["pairs"] += entry["pairs"]
            for name in entry.keys() - {"level", "pairs"}:
                held[name] = held.get(name, 0.0) + entry[name] * entry["pairs"]
        for timestep in step.get("window", ()):
            if timestep["level"] is not None:
                norms.setdefault(timestep["level"], []).append(timestep["grad_norm"])
    return {
        level: {name: value if name == "pairs" else value / held["pairs"] for name, value in held.items()}
        | ({"grad_norm": sum(norms[level]) / len(norms[level])} if level in norms else {})
        for level, held in sorted(sums.items())
    }


def by_expert(steps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Likewise: expert -> how many `timesteps` it got, and the means of the figures that all have; 0 alone if none."""
    counted = [step for step in steps if "experts" in step]
    every = [timestep for step in counted for timestep in step.get("window", ())]
    # Stages of several kinds have figures of several names.
    names = set.intersection(*map(set, every)) - {"timestep", "level", "expert"} if every else ()
    found: dict[str, dict[str, float]] = {}
    for expert in dict.fromkeys(expert for step in counted for expert in step["experts"]):
        visited = [timestep for timestep in every if timestep["expert"] == expert]
        means = {name: sum(each[name] for each in visited) / len(visited) for name in names if visited}
        found[expert] = {"timesteps": len(visited), **means}
    return found
