"""`report.html` of a scored judge: figures with intervals, whether to trust its confidence, and what it got wrong."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from buffers.labels import MEANINGS
from cluster.monitor.wording import percent
from cluster.report import plots
from cluster.report.page import tile, write_page
from configs.ranker import RankerScoringConfig
from media.video_write import mp4_bytes
from ranker.frames import Footage
from ranker.scoring import Scored

Shown = tuple[Scored, Footage, Footage]


def write_ranker_report(
    file: Path, config: RankerScoringConfig, figures: dict[str, Any], shown: Sequence[Shown], *, version: str
) -> Path:
    """Write the page from `ranker.scoring.score`'s figures and the failures to play, and return its path."""
    size = shown[0][1].frames.shape if shown else (1, 1, 1)
    return write_page(
        file,
        title=f"Apogee: the judge, {config.name}",
        body="judge_scores.html",
        width=size[2],
        height=size[1],
        fills={
            "what_ran": escape(f"{version} on {figures['pairs']} pairs of {config.pairs}, both orders asked."),
            "conclusion": conclusion(figures),
            "tiles": _tiles(figures),
            "accuracy_plots": _accuracy_plots(figures),
            "labels": _labels_table(figures),
            "confidence_plots": _confidence_plots(figures),
            "criteria": _criteria_table(figures),
            "failures": _failures(shown),
        },
    )


def conclusion(figures: dict[str, Any]) -> str:
    """One sentence that claims no more than the intervals allow."""
    right, first = figures["overall"]["by_video"], figures["first_shown"]
    chance = "better than chance" if right["low"] > 0.5 else "not shown to be better than chance"
    biased = not first["low"] <= 0.5 <= first["high"]
    bias = (
        "it favours the video shown " + ("first" if first["rate"] > 0.5 else "second")
        if biased
        else ("no position bias can be seen")
    )
    return (
        f"It names the better video of {percent(right['rate'])} of the pairs ({percent(right['low'])} to "
        f"{percent(right['high'])}), {chance}; {bias} ({percent(first['rate'])} first)."
    )


def _tiles(figures: dict[str, Any]) -> str:
    dropped = figures["pairs"] - (figures["kept"]["by_video"] or {"of": 0})["of"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in figures["dropped"].items())
    tiles = [
        _rate_tile("Right by video", figures["overall"]["by_video"]),
        _rate_tile("Right by label", figures["overall"]["by_label"]),
        _rate_tile("Both orders agree", figures["agreement"]),
        _rate_tile("First shown is chosen", figures["first_shown"]),
        _rate_tile("Right by video, of those kept", figures["kept"]["by_video"]),
        tile("Dropped in doubt", str(dropped), escape(reasons)),
        tile("Label mass", f"{figures['label_mass']['mean']:.3f}", f"least {figures['label_mass']['least']:.3f}"),
    ]
    return "".join(tiles)


def _rate_tile(label: str, rate: dict[str, Any] | None) -> str:
    if rate is None:
        return tile(label, "?", "no such pair")
    note = f"{rate['right']} of {rate['of']} ({percent(rate['low'])} to {percent(rate['high'])})"
    return tile(label, percent(rate["rate"]), note)


def _accuracy_plots(figures: dict[str, Any]) -> str:
    drawn = []
    for title, key in (("Right by video", "by_video"), ("Right by label", "by_label")):
        parts = {"all": figures["overall"], **figures["by_domain"], **figures["by_kind"]}
        rows = [
            plots.Whisker(name, part[key]["rate"], part[key]["low"], part[key]["high"], color=plots.BLUE)
            for name, part in parts.items()
            if part[key] is not None
        ]
        if rows:
            drawn.append(plots.whiskers(title, rows, x_label="share of pairs, 95% interval", percent=True))
    return "".join(f"<div>{picture}</div>" for picture in drawn)


def _labels_table(figures: dict[str, Any]) -> str:
    rows = []
    for name, found in figures["by_label"].items():
        domain, label = name.split("/")
        cells = "".join(f'<td class="number">{_cell(found[kind])}</td>' for kind in ("recall", "precision"))
        rows.append(f"<tr><td>{escape(domain)}</td><td>{label}: {MEANINGS[int(label) - 1]}</td>{cells}</tr>")
    if not rows:
        return '<p class="soft">People gave no labels, only choices.</p>'
    head = '<tr><th>domain</th><th>label</th><th class="number">recall</th><th class="number">precision</th></tr>'
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _criteria_table(figures: dict[str, Any]) -> str:
    if not figures["by_criterion"]:
        return ""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{_cell(found["by_video"])}</td>'
        f'<td class="number">{_cell(found["by_label"])}</td></tr>'
        for name, found in figures["by_criterion"].items()
    )
    numbers = '<th class="number">right by video</th><th class="number">right by label</th>'
    head = f"<tr><th>what decided it</th>{numbers}</tr>"
    return f'<div class="scroll"><table>{head}{rows}</table></div>'


def _cell(rate: dict[str, Any] | None) -> str:
    return "none" if rate is None else f"{percent(rate['rate'])} ({rate['right']} of {rate['of']})"


def _confidence_plots(figures: dict[str, Any]) -> str:
    bins, shares = figures["calibration"]["bins"], figures["by_confidence"]
    error = figures["calibration"]["expected_error"]
    reliability = plots.curves(
        "Reliability",
        [
            plots.Line("judge", [each["confidence"] for each in bins], [each["right"] for each in bins], plots.BLUE),
            plots.Line("calibrated", [0.5, 1.0], [0.5, 1.0], plots.ORANGE),
        ],
        x_label=f"confidence (expected calibration error {error:.3f})",
        y_label="right by video",
        percent=True,
    )
    surest = plots.curves(
        "The surest pairs first",
        [plots.Line("judge", [each["share"] for each in shares], [each["right"] for each in shares], plots.BLUE)],
        x_label="share of the pairs that is kept",
        y_label="right by video",
        percent=True,
        reference=(figures["overall"]["by_video"]["rate"], "all pairs"),
    )
    return f"<div>{reliability}</div><div>{surest}</div>"


def _failures(shown: Sequence[Shown]) -> str:
    if not shown:
        return '<p class="soft">It named the wrong video of no pair, or none was to be shown.</p>'
    figures = []
    for scored, a, b in shown:
        (right, *others), choice = scored.pair.right, "A" if scored.pair.a_is_better else "B"
        people = f"{choice} is better" if others else MEANINGS[right - 1]
        why = f" ({scored.pair.criterion})" if scored.pair.criterion else ""
        caption = escape(
            f"People: {people}{why}. Judge: {MEANINGS[scored.verdict.label - 1]}, confidence "
            f"{scored.verdict.confidence:.2f}{'' if scored.verdict.agreed else ', the orders disagree'}"
        )
        sides = "".join(
            f"<div><strong>{name}</strong><video autoplay loop muted playsinline "
            f'src="data:video/mp4;base64,{_playable(footage)}"></video>{escape(path.name)}</div>'
            for name, footage, path in (("A", a, scored.pair.a), ("B", b, scored.pair.b))
        )
        figures.append(
            f'<figure class="pair"><figcaption>{caption}</figcaption><div class="sides">{sides}</div></figure>'
        )
    return f'<p>The surest mistakes first, as the judge saw them.</p><div class="pairs">{"".join(figures)}</div>'


def _playable(footage: Footage) -> str:
    """The frames that were shown, as long as the video is; an odd side loses its last row or column."""
    frames = footage.frames[:, : footage.frames.shape[1] // 2 * 2, : footage.frames.shape[2] // 2 * 2]
    fps = len(frames) * footage.fps / footage.total
    return base64.b64encode(mp4_bytes(np.ascontiguousarray(frames), fps=fps)).decode("ascii")
