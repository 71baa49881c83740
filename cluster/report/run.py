"""`report.html` of a run: one file that plays and shows everything with no network, for an interrupted run as well.

The figures are `cluster.report.summary`'s, the pictures `cluster.report.plots`'s; here they are only put on a page.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

from cluster.monitor.rows import evaluation_rows, read_metrics
from cluster.monitor.wording import duration, percent, signed_percent
from cluster.report import plots
from cluster.report.page import tile, write_page
from cluster.report.run_sections import domains_section, learning_section, pace_section, ranker_section, run_section
from cluster.report.summary import PHASES, read_config, summarise
from cluster.report.summary import write_summary as write_summary
from cluster.report.videos import videos_section
from cluster.run_folder import RunFolder
from configs.sections import TimestepKind

METHODS: dict[TimestepKind, str] = {
    "apo": "Diffusion-APO",
    "uniform": "Diffusion-DPO (uniform timesteps)",
    "logit_normal": "Diffusion-DPO (logit-normal timesteps)",
}


def write_report(folder: Path | str) -> Path:
    """Write `report.html` of the run in `folder` from what lies there and return its path.

    Raises FileNotFoundError where the folder holds no run.
    """
    run = RunFolder(folder)
    config, rows = read_config(run), read_metrics(run.metrics_file)
    # What only the run itself knew (packages, machine) is in its summary; a killed run has none.
    written = json.loads(run.summary_file.read_text(encoding="utf-8")) if run.summary_file.exists() else {}
    summary = {**written, **summarise(rows, config)}
    return write_page(
        run.report_file,
        title=f"Apogee: {config['name']}",
        body="run.html",
        width=config["sampling"]["width"],
        height=config["sampling"]["height"],
        fills={
            "what_ran": _what_ran(config, summary),
            "banner": _banner(summary),
            "conclusion": conclusion(summary),
            "tiles": _tiles(summary),
            "result_plots": _result_plots(summary),
            "videos": videos_section(run.path, evaluation_rows(rows)),
            "learning": learning_section(rows),
            "ranker": ranker_section(rows, summary),
            "pace": pace_section(rows, summary),
            "domains": domains_section(summary),
            "run": run_section(config, summary),
        },
    )


def conclusion(summary: dict[str, Any]) -> str:
    """One sentence that claims no more than the intervals allow."""
    before, after = summary["distortion"]["before"], summary["distortion"]["after"]
    if before is None or after is None:
        return "No conclusion: the distortion rate was not measured both before and after."
    rates = f"from {percent(before['rate'])} to {percent(after['rate'])} of videos"
    if summary["distortion"]["intervals_overlap"]:
        text = f"Distortion went {rates}, but the 95% intervals overlap: no difference can be claimed."
    else:
        word = "fell" if after["rate"] < before["rate"] else "rose"
        text = f"Distortion {word} {rates}; the 95% intervals do not overlap."
    change = summary["motion"]["relative_change"]
    return text if change is None else f"{text} Motion changed by {signed_percent(change)}."


def _what_ran(config: dict[str, Any], summary: dict[str, Any]) -> str:
    learner, sampling = config["learner"], config["sampling"]
    method = METHODS[learner["timesteps"]["kind"]]
    return escape(
        f"{method} of {_short(config['model']['path'])}, judged by {_short(config['ranker']['path'])}: "
        f"{summary['steps']['done']} of {summary['steps']['planned']} steps of {learner['pairs_per_step']} pairs; "
        f"{config['generator']['num_actors']} generator(s), {config['ranker']['num_actors']} ranker(s), "
        f"{learner['num_workers']} learner worker(s); videos of {sampling['num_frames']} frames, "
        f"{sampling['width']}x{sampling['height']}, {sampling['steps']} sampling steps; seed {config['seed']}."
    )


def _short(path: str) -> str:
    """The last two parts of a path; the whole one is in the config below."""
    return "/".join(Path(path).parts[-2:])


def _banner(summary: dict[str, Any]) -> str:
    if summary["complete"]:
        return ""
    steps = summary["steps"]
    missing = [f"{steps['done']} of {steps['planned']} learner steps were done"]
    missing += [f"there is no evaluation {phase} training" for phase in _unevaluated(summary)]
    return f'<div class="banner"><strong>This run is not complete:</strong> {"; ".join(missing)}.</div>'


def _unevaluated(summary: dict[str, Any]) -> list[str]:
    return [phase for phase in PHASES if phase not in summary["evaluated"]]


def _tiles(summary: dict[str, Any]) -> str:
    distortion, motion, verdicts = summary["distortion"], summary["motion"], summary["verdicts"]
    tiles = [
        _change_tile("Distorted videos", distortion, "rate", "rate_low", "rate_high", percent),
        _change_tile("Motion in pixels per frame", motion, "mean", "low", "high", lambda value: f"{value:.2f}"),
    ]
    if verdicts is not None:
        counts = verdicts["counts"]
        agreed = verdicts["agreement"]
        note = f"of {counts['judged']} judged" + ("" if agreed is None else f"; orders agreed on {percent(agreed)}")
        tiles.append(tile("Pairs kept", str(counts["added"]), note))
    if summary["phases_s"]:
        longest = max(summary["phases_s"], key=lambda name: summary["phases_s"][name])
        total = sum(summary["phases_s"].values())
        note = f"longest: {longest}, {duration(summary['phases_s'][longest])}"
        tiles.append(tile("Time", duration(total), escape(note)))
    return "".join(tiles)


def _change_tile(label: str, sides: dict[str, Any], value: str, low: str, high: str, text: Any) -> str:
    shown, notes = [], []
    for phase in PHASES:
        side = sides[phase]
        shown.append("?" if side is None else text(side[value]))
        if side is None:
            notes.append(f"{phase}: not measured")
        else:
            interval = f"{text(side[low])} to {text(side[high])}"
            counted = f"{side['distorted']} of {side['videos']} ({interval})" if "distorted" in side else interval
            notes.append(f"{phase}: {counted}")
    return tile(label, f"{shown[0]} <i>&rarr;</i> {shown[1]}", "<br>".join(notes))


def _result_plots(summary: dict[str, Any]) -> str:
    drawn = []
    for title, sides, keys, x_label, is_share in (
        ("Distortion rate", summary["distortion"], ("rate", "rate_low", "rate_high"), "share of videos", True),
        ("Motion", summary["motion"], ("mean", "low", "high"), "pixels per frame", False),
    ):
        rows = [
            plots.Whisker(phase, *(sides[phase][key] for key in keys), color=color)
            for phase, color in (("before", plots.BEFORE), ("after", plots.AFTER))
            if sides[phase] is not None
        ]
        if rows:
            drawn.append(plots.whiskers(title, rows, x_label=f"{x_label}, 95% interval", percent=is_share))
    return "".join(f"<div>{picture}</div>" for picture in drawn)
