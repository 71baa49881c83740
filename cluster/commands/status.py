"""What `apogee status` prints: how a run stands, from its folder alone; `templates/status.txt` has the words.

Any terminal of any machine that sees the folder may ask. Nothing is started, no process is asked.
"""

import os
import statistics
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from buffers.figures import figures_of
from buffers.labels import DROP_COUNTS, KEPT_COUNTS, LABEL_COUNTS
from cluster.commands.check import TEMPLATES
from cluster.monitor.balance import balance, role_figures
from cluster.monitor.rows import Row, evaluation_rows, of_kind, read_metrics, step_rows
from cluster.monitor.wording import duration, figure_interval, figure_value
from cluster.report.summary import read_config, stages_run
from cluster.run_folder import RunFolder

RECENT = 20
"""Steps whose pace and figures are shown."""

COUNTED = ("judged", *LABEL_COUNTS, "agreed", *KEPT_COUNTS, *DROP_COUNTS, "added", "stale", "taken", "set_aside")

TEMPLATES.filters |= {"duration": duration, "value": figure_value, "interval": figure_interval}


def status(place: Path) -> str:
    """Raises FileNotFoundError if `place` is no run's folder and lies in none."""
    run = RunFolder.around(place)
    if run is None:
        raise FileNotFoundError(f"{place}: no run is there; want the folder that `out` of a run's config names")
    config, rows = read_config(run), read_metrics(run.metrics_file)
    states = sorted(run.checkpoints.glob("*/[0-9]*/state.safetensors"), key=os.path.getmtime)
    known: dict[str, Any] = {
        "folder": run.path,
        "name": config["name"],
        "driver": run.driver(),
        "complete": run.is_finished,
        "silent": time.time() - run.metrics_file.stat().st_mtime if rows else None,
        "saved": [{"step": int(each.parent.name), "ago": time.time() - each.stat().st_mtime} for each in states[-1:]],
        "phase": next((row["name"] for row in reversed(of_kind(rows, "phase"))), None),
        "actors": role_figures(rows),
        "balance": balance(rows),
        "counts": {
            key: value for key, value in (of_kind(rows, "verdicts") or [{}])[-1].items() if value and key in COUNTED
        },
        "failures": Counter(row["role"] for row in of_kind(rows, "failure")),
        "last_failure": next(reversed(of_kind(rows, "failure")), None),
        "late": next((row["actors"] for row in reversed(of_kind(rows, "late"))), []),
        "set_aside": [id_ for row in of_kind(rows, "set_aside") for id_ in row["ids"]],
        "advice": next((row["advice"] for row in reversed(of_kind(rows, "guard"))), None),
        "evaluations": {
            phase: {"step": row.get("step", 0), "figures": figures_of(row["measured"], row["about"])}
            for phase, row in evaluation_rows(rows).items()
        },
    }
    return TEMPLATES.get_template("status.txt").render(known | _steps(rows, config))


def _steps(rows: list[Row], config: dict[str, Any]) -> dict[str, Any]:
    """Where the learner is, its pace, and its figures: medians of the last steps."""
    steps, stages = step_rows(rows), config["stages"]
    recent, total = steps[-RECENT:], sum(stage["steps"] for stage in stages_run(config))
    paces = [later["time"] - earlier["time"] for earlier, later in pairwise(recent)]
    pace = statistics.median(paces) if paces else None
    figures = {key for row in recent for key, value in row.items() if isinstance(value, float)} - {"time", "step"}
    return {
        "total": total,
        "step": int(steps[-1]["step"]) if steps else 0,
        "stage": steps[-1].get("stage") if steps else None,
        "kinds": [stage["kind"] for stage in stages],
        "pace": pace,
        "left": pace * (total - steps[-1]["step"]) if pace else None,
        "figures": {key: statistics.median(row[key] for row in recent if key in row) for key in sorted(figures)},
    }
