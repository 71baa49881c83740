"""The report's sections below the result: learning, ranker, pace, domains, and what the run was."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import yaml

from buffers.labels import DROP_COUNTS, LABEL_COUNTS, WHY_DROPPED
from cluster.monitor.balance import step_seconds
from cluster.monitor.rows import Row, of_kind, recent_shares, step_rows
from cluster.monitor.wording import duration, percent
from cluster.report import plots
from cluster.report.summary import PHASES, agreement, first_shown_share
from learner.noise_levels import LEVELS, by_noise_level

LABEL_NAMES = ("1: A less distorted", "2: B less distorted", "3: alike, A moves better", "4: alike, B moves better")
LABEL_COLORS = (plots.BLUE, "#8CC5EC", plots.GREEN, "#8FD3A8")
MOTION_UNIT = '<p class="soft">Motion in pixels per frame.</p>'
FATE_COLORS = (
    plots.BLUE,
    plots.ORANGE,
    plots.VERMILLION,
    plots.PURPLE,
    "#808080",
    "#8B1A1A",
    "#404040",
    "#B0B0B0",
    "#D0D0D0",
)


def learning_section(rows: list[Row]) -> str:
    """Curves of what the learner reports, over its steps."""
    steps = step_rows(rows)
    if not steps:
        return _nothing("no learner step was done")
    loss = [_step_line(steps, "loss", "loss", plots.BLUE)]
    accuracy = [_step_line(steps, "implicit_accuracy", "chosen preferred", plots.BLUE)]
    drift = [_step_line(steps, "drift", "drift", plots.PURPLE, smooth=False)]
    norm = [_step_line(steps, "grad_norm", "norm", plots.GREEN)]
    rewards = [
        _step_line(steps, "chosen_reward", "chosen", plots.BLUE),
        _step_line(steps, "rejected_reward", "rejected", plots.VERMILLION),
        _step_line(steps, "margin", "margin", plots.PURPLE),
    ]
    # log 2 is the loss of a policy that prefers as its reference does.
    drawn = [
        _over_steps("Loss", loss, "nats", reference=(math.log(2), "no preference (ln 2)")),
        _over_steps("Implicit accuracy", accuracy, "share of pairs", percent=True, reference=(0.5, "chance")),
        _over_steps("Implicit rewards", rewards, "nats", reference=(0.0, "reference")),
        _over_steps("Drift from the reference", drift, "squared velocity difference"),
        _over_steps("Gradient norm before clipping", norm, "norm"),
        *_noise_levels(steps[len(steps) // 2 :]),
    ]
    note = '<p class="soft">Bold: mean of the latest steps. Faint: single steps.</p>' if len(steps) >= 30 else ""
    return note + _grid(drawn)


def _noise_levels(steps: list[Row]) -> list[str]:
    """Which timesteps carry the signal: figures of the later steps over the noise level that they were taken at."""
    figures = by_noise_level(steps)
    if not figures:
        return []
    middles = {level: (level + 0.5) / LEVELS for level in figures}

    def line(key: str, label: str, color: str) -> plots.Line:
        held = [level for level in sorted(figures) if key in figures[level]]
        return plots.Line(label, [middles[level] for level in held], [figures[level][key] for level in held], color)

    accuracy = line("implicit_accuracy", "chosen preferred", plots.BLUE)
    norm = line("grad_norm", "norm", plots.GREEN)
    x_label = "noise level t / T, second half of the steps"
    return [
        plots.curves(
            "Implicit accuracy by noise level",
            [accuracy],
            x_label=x_label,
            y_label="share of pairs",
            percent=True,
            reference=(0.5, "chance"),
        ),
        plots.curves("Gradient norm by noise level", [norm], x_label=x_label, y_label="norm of one timestep"),
        plots.curves(
            "Drift by noise level",
            [line("drift", "drift", plots.PURPLE)],
            x_label=x_label,
            y_label="squared velocity difference",
        ),
    ]


def ranker_section(rows: list[Row], summary: dict[str, Any]) -> str:
    """Verdict mix over time, agreement of the orders, share of the video shown first, and the last counts."""
    if summary["verdicts"] is None:
        return _nothing("no verdict was recorded")
    seen = [row for row in of_kind(rows, "verdicts") if row["judged"]]
    time = [row["time"] for row in seen]
    # What was lost was never judged.
    fates = [
        {**row, "kept": row["judged"] + row["dropped_lost"] - sum(row.get(key, 0) for key in DROP_COUNTS)}
        for row in seen
    ]
    reasons = [reason.replace("_", " ") for reason in WHY_DROPPED]
    drawn = []
    for title, mix, keys, names, colors in (
        ("Verdict mix, latest verdicts", seen, LABEL_COUNTS, LABEL_NAMES, LABEL_COLORS),
        ("Kept and dropped, latest verdicts", fates, ("kept", *DROP_COUNTS), ("kept", *reasons), FATE_COLORS),
    ):
        parts = zip(names, recent_shares(mix, keys), colors, strict=True)
        if any_part := [part for part in parts if any(part[1])]:
            drawn.append(plots.shares(title, time, any_part, x_label="seconds since the start"))
    first_shown = [first_shown_share(row, orders=summary["verdicts"]["orders"]) for row in seen]
    for title, values, label, reference in (
        ("Both orders agree", [agreement(row) for row in seen], "agreement", None),
        ("The video shown first is chosen", first_shown, "first shown", (0.5, "no position bias")),
    ):
        if seen:
            line = plots.Line(label, time, [value or 0.0 for value in values], plots.BLUE)
            drawn.append(
                plots.curves(
                    title,
                    [line],
                    x_label="seconds since the start",
                    y_label="share, all so far",
                    percent=True,
                    reference=reference,
                )
            )
    counts = summary["verdicts"]["counts"]
    table = _table(("verdicts", "count"), [(key.replace("_", " "), f"{value:,}") for key, value in counts.items()])
    return _grid(drawn) + f"<details><summary>All counts</summary>{table}</details>"


def pace_section(rows: list[Row], summary: dict[str, Any]) -> str:
    """The balance number with what to change, busy and waiting seconds, staleness, seconds of a step."""
    balance, steps = summary["balance"], step_rows(rows)
    text = ""
    if balance is not None:
        text = (
            f'<div class="tiles"><div class="tile"><span class="soft">Balance</span><b>{balance["number"]:+d}</b>'
            '<span class="soft">&minus;100: all wait for learning; 0: even; +100: all wait for generation</span></div>'
            f'<div class="tile"><span class="soft">Generators busy</span><b>{percent(balance["generator_busy"], 0)}</b>'
            f'<span class="soft">of their time</span></div><div class="tile"><span class="soft">Learner waiting</span>'
            f'<b>{percent(balance["learner_waiting"], 0)}</b><span class="soft">of its time</span></div></div>'
            f"<p>{escape(balance['suggestion'])}</p>"
        )
    drawn = []
    if summary["roles"]:
        bars = [
            (f"{actor['role']} {actor['index']}", actor["busy_s"], actor["waiting_s"]) for actor in summary["roles"]
        ]
        drawn.append(plots.busy_bars("Busy and waiting in the loop", bars))
    if steps:
        behind = [
            _step_line(steps, "staleness_mean", "mean", plots.BLUE, smooth=False),
            _step_line(steps, "staleness_max", "largest", plots.ORANGE, smooth=False),
        ]
        numbers, waited, worked = zip(*step_seconds(rows), strict=True)
        seconds = [
            plots.Line("learning", numbers, worked, plots.BLUE),
            plots.Line("waiting for pairs", numbers, waited, plots.ORANGE),
        ]
        drawn.append(_over_steps("Staleness of the pairs learned from", behind, "policy versions behind"))
        drawn.append(_over_steps("Seconds of a learner step", seconds, "seconds"))
    return text + _grid(drawn) if text or drawn else _nothing("no times were recorded")


def domains_section(summary: dict[str, Any]) -> str:
    """Distortion rate of every domain before and after, as picture and table."""
    phases = summary["by_domain"]
    measured = [
        (domain, phase, figures)
        for domain in sorted({domain for by_domain in phases.values() for domain in by_domain})
        for phase in PHASES
        if (figures := phases.get(phase, {}).get(domain)) is not None and figures["distortion"] is not None
    ]
    if not measured:
        return _nothing("no evaluation by domain was recorded")
    marks, lines = [], []
    for domain, phase, figures in measured:
        distortion, motion = figures["distortion"], figures["motion"]
        rate, low, high = distortion["rate"], distortion["rate_low"], distortion["rate_high"]
        color = plots.BEFORE if phase == "before" else plots.AFTER
        marks.append(plots.Whisker(f"{domain}, {phase}", rate, low, high, color))
        count = f"{distortion['distorted']} of {distortion['videos']}"
        interval = f"{percent(low)} to {percent(high)}"
        lines.append((escape(domain), phase, count, percent(rate), interval, f"{motion['mean']:.2f}"))
    title, x_label = "Distortion rate by domain", "share of videos, 95% interval"
    picture = plots.whiskers(title, marks, x_label=x_label, percent=True)
    head = ("domain", "phase", "distorted", "rate", "95% interval", "motion")
    return f'<div class="plots"><div>{picture}</div><div class="scroll">{_table(head, lines)}</div></div>' + MOTION_UNIT


def run_section(config: dict[str, Any], summary: dict[str, Any]) -> str:
    """Seconds of every phase, machine and packages, and the whole resolved config."""
    phases = [(escape(name), duration(seconds)) for name, seconds in summary["phases_s"].items()]
    if phases:
        phases.append(("<b>all</b>", f"<b>{duration(sum(summary['phases_s'].values()))}</b>"))
    named = {f"{name} seed": seed for name, seed in summary["seeds"].items()} | {"actors lost": summary["failures"]}
    named |= summary.get("machine", {}) | summary.get("packages", {})
    facts = [(escape(name.replace("_", " ")), escape(str(value))) for name, value in named.items()]
    text = escape(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return (
        (_table(("phase", "time"), phases) if phases else _nothing("no phase was finished"))
        + f"<details><summary>Machine, packages and seeds</summary>{_table(('fact', 'value'), facts)}</details>"
        + f"<details><summary>Resolved config</summary><pre>{text}</pre></details>"
    )


def _step_line(steps: list[Row], key: str, label: str, color: str, *, smooth: bool = True) -> plots.Line:
    return plots.Line(label, [row["step"] for row in steps], [row[key] for row in steps], color, smooth=smooth)


def _over_steps(title: str, lines: list[plots.Line], y_label: str, **options: Any) -> str:
    return plots.curves(title, lines, x_label="learner step", y_label=y_label, **options)


def _grid(pictures: Iterable[str]) -> str:
    return f'<div class="plots">{"".join(f"<div>{picture}</div>" for picture in pictures)}</div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already; all but the first column are set as numbers."""
    classes = ["", *[' class="number"'] * (len(head) - 1)]
    titles = "".join(f"<th{kind}>{cell}</th>" for kind, cell in zip(classes, head, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for kind, cell in zip(classes, row, strict=True))}</tr>" for row in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _nothing(why: str) -> str:
    return f'<p class="soft">Nothing to show: {why}.</p>'
