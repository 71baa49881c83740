"""`report.html` of a run: one file that plays and shows everything with no network, also of a run that was stopped.

The figures are those of `summary.py`. `templates/run.html` says in which words and pictures they are shown.
"""

import json
from pathlib import Path

import yaml

from buffers.labels import NOT_JUDGED, WHY_DROPPED
from cluster.monitor.balance import step_seconds
from cluster.monitor.rows import evaluation_rows, of_kind, read_metrics, step_rows
from cluster.report.page import write_page
from cluster.report.summary import agreement, read_config, summarise
from cluster.report.summary import write_summary as write_summary
from cluster.report.videos import before_and_after
from cluster.run_folder import RunFolder
from learner.noise_levels import LEVELS, by_expert, by_noise_level


def write_report(folder: Path | str) -> Path:
    """Write `report.html` of the run in `folder` from what lies there and return its path.

    Raises FileNotFoundError if the folder holds no run.
    """
    run = RunFolder(folder)
    config, rows = read_config(run), read_metrics(run.metrics_file)
    # What only the run itself knew (packages, machine) is in its summary; a killed run has none.
    written = json.loads(run.summary_file.read_text(encoding="utf-8")) if run.summary_file.exists() else {}
    summary = {**written, **summarise(rows, config)}
    shown = config["evaluation"]["shown_videos"]
    videos, more_videos = before_and_after(run.path, evaluation_rows(rows), summary["figures"], shown)
    steps = step_rows(rows)
    levels = by_noise_level(steps[len(steps) // 2 :])
    dropped = [f"dropped_{why}" for why in WHY_DROPPED if why not in NOT_JUDGED]
    both_orders = config["ranker"]["both_orders"]
    verdicts = [
        row
        | {"kept": row["judged"] - sum(row.get(key, 0) for key in dropped), "agreement": agreement(row, both_orders)}
        for row in of_kind(rows, "verdicts")
        if row["judged"]
    ]
    kinds = [stage["kind"] for stage in config["stages"]]
    begun = {row["stage"]: row["step"] for row in reversed(steps)}  # the first step of each stage
    marks = [(begun[number] - 0.5, kinds[number]) for number in sorted(begun)]
    return write_page(
        run.report_file,
        "run.html",
        sampling=config["sampling"],
        config=config,
        config_text=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        summary=summary,
        videos=videos,
        more_videos=more_videos,
        stages=marks if len(kinds) > 1 else [],
        steps=steps,
        step_seconds=[{"step": step, "waited": waited, "worked": work} for step, waited, work in step_seconds(rows)],
        levels=[{"level": (level + 0.5) / LEVELS, **means} for level, means in levels.items()],
        experts=by_expert(steps),
        verdicts=verdicts,
    )
