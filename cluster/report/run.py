"""`report.html` of a run: one file that plays and shows everything with no network, also of a run that was stopped.

The figures are `summary.py`'s, the pictures `run_plots.py`'s. `templates/run.html` puts them on a page.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from cluster.monitor.rows import evaluation_rows, read_metrics
from cluster.monitor.wording import figure_value, percent, signed_percent
from cluster.report import run_plots
from cluster.report.page import write_page
from cluster.report.summary import PHASES, read_config, summarise
from cluster.report.summary import write_summary as write_summary
from cluster.report.videos import before_and_after
from cluster.run_folder import RunFolder
from configs.sections import TimestepKind

METHODS: dict[TimestepKind, str] = {
    "apo": "Diffusion-APO",
    "uniform": "Diffusion-DPO (uniform timesteps)",
    "logit_normal": "Diffusion-DPO (logit-normal timesteps)",
}


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
    stages = config["stages"]
    return write_page(
        run.report_file,
        "run.html",
        width=config["sampling"]["width"],
        height=config["sampling"]["height"],
        config=config,
        config_text=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        summary=summary,
        method=METHODS[config["learner"]["timesteps"]["kind"]],
        model=_short(config["model"]["path"]),
        teacher=_teacher(config),
        missing=[phase for phase in PHASES if phase not in summary["evaluated"]],
        conclusion=conclusion(summary["figures"]),
        figures=run_plots.figures(summary),
        figures_by_domain=run_plots.figures_by_domain(summary),
        videos=videos,
        more_videos=more_videos,
        learning=run_plots.learning(rows, stages),
        ranker=run_plots.ranker(rows, summary),
        pace=run_plots.pace(rows, summary, stages),
    )


def conclusion(figures: dict[str, Any]) -> list[str]:
    """A sentence for each figure (one for all that a judge gave), which claims no more than the intervals allow."""
    sentences = [
        _change(name, figure) for name, figure in figures.items() if figure["before"] and figure["after"]
    ] + _judged(figures)
    return sentences or ["No conclusion: no figure was measured both before and after training."]


def _change(name: str, figure: dict[str, Any]) -> str:
    before, after = figure["before"], figure["after"]
    change = "" if "count" in before or figure["relative_change"] is None else signed_percent(figure["relative_change"])
    ends = f"from {figure_value(before)} to {figure_value(after)} {figure['unit']}{change and f' ({change})'}"
    if figure["intervals_overlap"]:
        return f"{name.capitalize()} went {ends}, but the 95% intervals overlap: no difference can be claimed."
    is_higher = after["value"] > before["value"]
    good = "better" if is_higher == (figure["better"] == "higher") else "worse"
    return (
        f"{name.capitalize()} {'rose' if is_higher else 'fell'} {ends}, which is {good}; "
        "the 95% intervals do not overlap."
    )


def _judged(figures: dict[str, Any]) -> list[str]:
    """What the judge of the run said of the videos after training beside those before."""
    if not figures.get("win", {}).get("against"):
        return []
    win, tie, loss, net = (figures[name]["after"] for name in ("win", "tie", "loss", "net win rate"))
    low, high = net["interval"]
    claim = "the videos are better than before" if low > 0 else "the videos are worse than before"
    if low <= 0 <= high:
        claim = "no difference can be claimed"
    return [
        f"Of {win['of']} videos, the judge prefers {percent(win['value'])} as they are after training and "
        f"{percent(loss['value'])} as they were before; {percent(tie['value'])} are ties. The net win rate is "
        f"{net['value']:+.2f} ({low:+.2f} to {high:+.2f}): {claim}."
    ]


def _teacher(config: dict[str, Any]) -> str:
    """Who says which video of a pair is the better one."""
    ranker, kinds = config["ranker"], {stage["kind"] for stage in config["stages"]}
    judge = ranker["function"] if ranker["kind"] == "function" else _short(ranker["path"])
    teachers = [f"judged by {judge}"] if kinds != {"offline"} else []
    return " and ".join([*teachers, *(["with pairs that people labelled"] if "offline" in kinds else [])])


def _short(path: str) -> str:
    """The last two parts of a path; the whole path is in the config below."""
    return "/".join(Path(path).parts[-2:])
