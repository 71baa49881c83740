"""Tables, plots and plain words from the study's runs (`benchmarks.studies.apo_vs_dpo`); nothing is measured here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.figure import Figure

from benchmarks.studies.pooled import figure_of_runs
from examples.miniature.prompts.make import split

Row = dict[str, Any]

NAMES = {
    "base": "base",
    "dpo_uniform": "Diffusion-DPO, uniform",
    "dpo_logit_normal": "Diffusion-DPO, logit-normal",
    "apo": "APO",
    "apo_no_shift_no_offset": "APO, no shift, no offset",
    "apo_isolated": "APO, isolated timesteps",
    "apo_high_only": "APO, high noise only",
    "apo_low_only": "APO, low noise only",
    "apo_snap_anchor": "APO, snap: grid",
}
COLORS = ("#808080", "#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#CC79A7", "#009E73", "#B8A000", "#404040")

RATES = ("distorted", "obeyed")

SPIKE_PAST, SPIKE_SIZE = 15, 4.0
"""A loss is a spike when it lies this many robust deviations (1.4826 x median absolute deviation) above the median of
that many points before it."""


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float

    def text(self, scale: float = 100.0, unit: str = "%", *, signed: bool = False) -> str:
        form = "{:+.1f}" if signed else "{:.1f}"
        value, low, high = (form.format(scale * x) for x in (self.value, self.low, self.high))
        return f"{value}{unit} ({low} to {high})"


@dataclass(frozen=True)
class Claim:
    """`better` is said to have less of `what` than `worse`."""

    text: str
    better: str
    worse: str
    what: str = "distorted"
    share: float | None = None
    """None: at the end; else at this share of the budget."""


CLAIMS = (
    Claim(
        "At equal compute APO leaves fewer distorted videos than uniform Diffusion-DPO (Table 1).", "apo", "dpo_uniform"
    ),
    Claim("It is ahead early already, after a third of the compute (convergence).", "apo", "dpo_uniform", share=1 / 3),
    Claim("Aligned timesteps beat logit-normal ones, too (not in the paper).", "apo", "dpo_logit_normal"),
    Claim("Random shift and offset lower the distortion rate (Table 1).", "apo", "apo_no_shift_no_offset"),
    Claim("The sliding window lowers the distortion rate against isolated timesteps (4.2).", "apo", "apo_isolated"),
    Claim("High noise alone converges to something worse (4.2).", "apo", "apo_high_only"),
    Claim("Low noise alone brings a sharp rise of artifacts: more than APO (4.2).", "apo", "apo_low_only"),
    Claim("Low noise alone brings a sharp rise of artifacts: more than the base (4.2).", "base", "apo_low_only"),
    Claim("Snapping to timesteps is better than snapping to anchors (our reading of 3.2).", "apo", "apo_snap_anchor"),
)


class Study:
    """The comparison's runs as matrices `[seeds, videos]`, with intervals over the prompts and the seeds of training.

    The arms share the prompts and noises that they are measured on and, seed by seed, the order of the pairs, so
    differences are paired.
    """

    def __init__(self, rows: list[Row]) -> None:
        self.rows = [row for row in rows if row["phase"] == "compare"]
        self.arms = [arm for arm in NAMES if any(row["arm"] == arm for row in self.rows)]
        # Of the seeds that every arm has: an unfinished study is reported as far as it is balanced.
        seeds = [{row["seed"] for row in self.of(arm)} for arm in self.arms if arm != "base"]
        self.seeds = sorted(set.intersection(*seeds)) if seeds else []

    def of(self, arm: str) -> list[Row]:
        return [row for row in self.rows if row["arm"] == arm]

    def runs(self, arm: str) -> list[Row]:
        """The arm's rows of the common seeds, in their order."""
        return [row for seed in self.seeds for row in self.of(arm) if row["seed"] == seed]

    def matrix(self, arm: str, what: str, share: float | None = None) -> np.ndarray:
        """`[seeds, videos]`; of the base, whose videos no seed changes, `[1, videos]`."""
        if arm == "base":
            whole = np.array([self.of("base")[0]["final"][what]])
            return whole if share is None else whole[:, : len(self.runs("apo")[0]["curve"][0][what])]
        if share is None:
            return np.array([row["final"][what] for row in self.runs(arm)])
        points = [min(row["curve"], key=lambda point: abs(point["share"] - share)) for row in self.runs(arm)]
        return np.array([point[what] for point in points])

    def mean(self, arm: str, what: str, share: float | None = None) -> Interval:
        matrix = self.matrix(arm, what, share)
        return _interval(matrix.astype(bool) if what in RATES else matrix)

    def difference(self, arm: str, other: str, what: str, share: float | None = None) -> Interval:
        """`arm` minus `other`."""
        return _interval(self.matrix(arm, what, share).astype(float) - self.matrix(other, what, share))


def _interval(matrix: np.ndarray) -> Interval:
    """Of values `[seeds, videos]`."""
    runs, videos = np.indices(matrix.shape)
    prompts = videos % len(split()[1])  # `Bench.evaluate` takes the held-out prompts in turn
    found = figure_of_runs(matrix.ravel().tolist(), prompts=prompts.ravel().tolist(), runs=runs.ravel().tolist())
    return Interval(found["value"], *found["interval"])


def spikes(losses: Sequence[float]) -> int:
    """How many losses stand out above those just before them."""
    found = 0
    for index in range(SPIKE_PAST, len(losses)):
        past = losses[index - SPIKE_PAST : index]
        middle = median(past)
        deviation = 1.4826 * median(abs(loss - middle) for loss in past)
        found += losses[index] > middle + SPIKE_SIZE * deviation
    return found


def at_equal_compute(row: Row, points: int) -> list[float]:
    """The run's losses averaged within `points` equal parts of its budget."""
    return [float(np.mean(part)) for part in np.array_split(row["loss"], points)]


def roughness(losses: Sequence[float]) -> float:
    """Root mean square of a loss's distance from the mean of the `SPIKE_PAST` before it."""
    gaps = [losses[i] - float(np.mean(losses[i - SPIKE_PAST : i])) for i in range(SPIKE_PAST, len(losses))]
    return float(np.sqrt(np.mean(np.square(gaps))))


def outcome(difference: Interval) -> str:
    """In words, of `better` minus `worse`."""
    if difference.high < 0:
        return "**held**"
    if difference.low > 0:
        return "**the opposite held**"
    return "not decided at this size"


def write_report(rows: list[Row], out: Path) -> None:
    """`report.md` and its pictures into `out`; an unfinished study is reported as far as it is balanced."""
    study = Study(rows)
    if not study.seeds or "apo" not in study.arms:
        print("no seed has a run of APO and of every other arm that was begun: nothing to report yet")
        return
    out.mkdir(parents=True, exist_ok=True)
    _plot_rates(study, out / "rates.svg")
    _plot_convergence(study, out / "convergence.svg")
    _plot_losses(study, out / "losses.svg")
    _plot_levels(study, out / "levels.svg")
    parts = [_head(study, rows), _rates_table(study), _claims_table(study), _loss_table(study), _choice_table(rows)]
    (out / "report.md").write_text("\n\n".join(parts) + "\n")
    print(f"{out / 'report.md'}")


def _head(study: Study, rows: list[Row]) -> str:
    runs = [row for row in rows if "seconds" in row]
    hours = sum(row["seconds"] for row in runs) / 3600
    videos = len(study.of("base")[0]["final"]["distorted"])
    budget = study.runs("apo")[0]
    return (
        "# Diffusion-APO against Diffusion-DPO on the miniature\n\n"
        "Written by `python -m benchmarks.studies.apo_vs_dpo`; what is compared and how is said at the top of that "
        "file, what we make of it in [findings.md](findings.md).\n\n"
        f"{len(study.seeds)} seeds ({', '.join(map(str, study.seeds))}), {videos} held-out videos a run, "
        f"{budget['steps']} optimizer steps of APO (others: as many as give the same number of transformer rows). "
        f"{len(runs)} runs, {hours:.1f} process-hours of one thread each. Intervals are 95%, over the "
        f"{len(split()[1])} held-out prompts and the {len(study.seeds)} seeds of training: what other prompts and "
        "other seeds would give. The base was not trained, so its interval is over prompts alone. Differences are "
        "paired by prompt, noise and seed."
    )


def _rates_table(study: Study) -> str:
    lines = ["## Where they end", "![distortion rate by arm](rates.svg)", ""]
    lines += [
        "| arm | distorted | against the base | against uniform DPO | motion, pixels a frame | colour and way obeyed |",
        "|---|---|---|---|---|---|",
    ]
    for arm in study.arms:
        cells = [study.mean(arm, "distorted").text()]
        for other in ("base", "dpo_uniform"):
            same = arm in (other, "base")
            cells.append("" if same else study.difference(arm, other, "distorted").text(unit="", signed=True))
        motion, obeyed = study.mean(arm, "motion"), study.mean(arm, "obeyed")
        cells += [f"{motion.value:.2f} ({motion.low:.2f} to {motion.high:.2f})", obeyed.text()]
        lines.append(f"| {NAMES[arm]} | {' | '.join(cells)} |")
    lines += ["", "## On the way there", "![distortion rate over compute](convergence.svg)"]
    return "\n".join(lines)


def _claims_table(study: Study) -> str:
    lines = ["## Which claims held here", ""]
    lines += ["| claim | difference in points | |", "|---|---|---|"]
    for claim in CLAIMS:
        if {claim.better, claim.worse} <= set(study.arms):
            gap = study.difference(claim.better, claim.worse, claim.what, claim.share)
            lines.append(f"| {claim.text} | {gap.text(unit='', signed=True)} | {outcome(gap)} |")
    return "\n".join(lines)


def _loss_table(study: Study) -> str:
    points = study.runs("apo")[0]["steps"]
    lines = ["## Loss curves (the paper's Fig. 4)", "![loss curves](losses.svg)", ""]
    lines += [
        f"A spike: a loss more than {SPIKE_SIZE:g} robust deviations above the median of the {SPIKE_PAST} points "
        f"before it. Equal compute: the losses averaged within {points} equal parts of the budget, so that an arm of "
        "one timestep a step is not rougher only because its points are smaller. Means over the seeds.",
        "",
        "| arm | spikes per 100 steps | roughness of steps | spikes per 100 points, equal compute "
        "| roughness, equal compute |",
        "|---|---|---|---|---|",
    ]
    for arm in study.arms:
        if arm == "base":
            continue
        runs = study.runs(arm)
        equal = [at_equal_compute(row, points) for row in runs]
        cells = [
            f"{np.mean([100 * spikes(row['loss']) / row['steps'] for row in runs]):.1f}",
            f"{np.mean([roughness(row['loss']) for row in runs]):.3f}",
            f"{np.mean([100 * spikes(losses) / points for losses in equal]):.1f}",
            f"{np.mean([roughness(losses) for losses in equal]):.3f}",
        ]
        lines.append(f"| {NAMES[arm]} | {' | '.join(cells)} |")
    lines += ["", "## Which noise levels carry the signal", "![figures by noise level](levels.svg)"]
    return "\n".join(lines)


def _choice_table(rows: list[Row]) -> str:
    tried = [row for row in rows if row["phase"] == "choose" and row["arm"] != "base"]
    base = next(row for row in rows if row["phase"] == "choose" and row["arm"] == "base")["final"]
    lines = [
        "## How beta and learning rate were chosen",
        "",
        "All settings with one seed, the best two with a second, and of these the lowest mean distortion rate; those "
        "that lose more than a tenth of the base's motion or obedience come last. Training prompts, other noises and "
        f"other seeds than the comparison's. The base there: {np.mean(base['distorted']):.1%}, motion "
        f"{np.mean(base['motion']):.2f}, obeyed {np.mean(base['obeyed']):.1%}.",
        "",
        "| arm | beta | learning rate | distorted, by seed | motion | obeyed | drift at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, beta, rate in sorted({(row["arm"], row["beta"], row["learning_rate"]) for row in tried}):
        runs = [row for row in tried if (row["arm"], row["beta"], row["learning_rate"]) == (arm, beta, rate)]
        rates = ", ".join(f"{np.mean(run['final']['distorted']):.1%}" for run in runs)
        motion, obeyed = (np.mean([run["final"][what] for run in runs]) for what in ("motion", "obeyed"))
        drift = np.mean([run["drift"][-10:] for run in runs])
        lines.append(f"| {NAMES[arm]} | {beta:g} | {rate:g} | {rates} | {motion:.2f} | {obeyed:.1%} | {drift:.3f} |")
    used = {
        arm: (runs[0]["beta"], runs[0]["learning_rate"]) for arm in ("apo", "dpo_uniform") if (runs := _of(rows, arm))
    }
    lines += ["", "Used: " + "; ".join(f"{NAMES[a]} beta {b:g}, rate {r:g}" for a, (b, r) in used.items()) + "."]
    return "\n".join(lines)


def _of(rows: list[Row], arm: str) -> list[Row]:
    return [row for row in rows if row["phase"] == "compare" and row["arm"] == arm]


def _plot_rates(study: Study, file: Path) -> None:
    figure = Figure(figsize=(7.5, 0.45 * len(study.arms) + 1), layout="constrained")
    axes = figure.subplots()
    for place, arm in enumerate(reversed(study.arms)):
        rate, color = study.mean(arm, "distorted"), COLORS[list(NAMES).index(arm)]
        axes.plot([rate.low, rate.high], [place, place], color=color, linewidth=2.5)
        axes.plot(rate.value, place, "o", color=color, markersize=8)
        if arm != "base":
            axes.plot(study.matrix(arm, "distorted").mean(1), [place - 0.22] * len(study.seeds), "|", color=color)
        axes.annotate(f"{rate.value:.1%}", (rate.value, place), (0, 8), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(study.arms)), [NAMES[arm] for arm in reversed(study.arms)])
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.set_xlabel("distorted videos, 95% interval; small marks: single seeds")
    axes.grid(axis="x", alpha=0.3)
    _save(figure, file)


def _plot_convergence(study: Study, file: Path) -> None:
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    first = study.runs("apo")[0]["curve"]
    shown = len(first[0]["distorted"])
    start = float(study.matrix("base", "distorted")[0, :shown].mean())
    for arm in study.arms:
        if arm == "base":
            axes.axhline(start, color=COLORS[0], linestyle=":", label="base")
            continue
        rates = [study.matrix(arm, "distorted", point["share"]).mean() for point in first]
        end = study.matrix(arm, "distorted")[:, :shown].mean()
        shares = [0.0, *(point["share"] for point in first), 1.0]
        style = "--" if arm.startswith("dpo") else "-"
        color = COLORS[list(NAMES).index(arm)]
        axes.plot(shares, [start, *rates, end], style, marker="o", markersize=4, color=color, label=NAMES[arm])
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the compute (transformer rows)")
    axes.set_ylabel(f"distorted, the first {shown} videos")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, ncols=3, loc="outside upper center")
    _save(figure, file)


def _plot_losses(study: Study, file: Path) -> None:
    shown = [arm for arm in ("dpo_uniform", "apo_isolated", "apo_low_only", "apo") if arm in study.arms]
    figure = Figure(figsize=(7.5, 1.6 * len(shown) + 0.4), layout="constrained")
    highest = max(max(study.runs(arm)[0]["loss"]) for arm in shown)
    for axes, arm in zip(np.atleast_1d(figure.subplots(len(shown), sharex=True)), shown, strict=True):
        run = study.runs(arm)[0]
        shares = (np.arange(run["steps"]) + 1) / run["steps"]
        color = COLORS[list(NAMES).index(arm)]
        axes.plot(shares, run["loss"], color=color, linewidth=0.7, alpha=0.6)
        points = study.runs("apo")[0]["steps"]
        axes.plot((np.arange(points) + 1) / points, at_equal_compute(run, points), color=color, linewidth=1.5)
        axes.axhline(np.log(2), color="#808080", linestyle=":", linewidth=0.8)
        axes.set_ylim(0, 1.05 * highest)
        axes.set_title(f"{NAMES[arm]}, seed {study.seeds[0]}", fontsize=9, loc="left")
        axes.grid(alpha=0.3)
    axes.set_xlabel("share of the compute; faint: every optimizer step, bold: at equal compute, dotted: ln 2")
    _save(figure, file)


def _plot_levels(study: Study, file: Path) -> None:
    panels = (
        ("implicit_accuracy", "implicit accuracy"),
        ("margin", "margin, nats"),
        ("drift", "drift from the base"),
        ("grad_norm", "gradient norm of a timestep"),
    )
    figure = Figure(figsize=(7.5, 5.4), layout="constrained")
    shown = [
        arm for arm in ("dpo_uniform", "dpo_logit_normal", "apo", "apo_high_only", "apo_low_only") if arm in study.arms
    ]
    for axes, (key, label) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for arm in shown:
            found: dict[int, list[float]] = {}
            for run in study.runs(arm):
                for level in run["levels"]:
                    if key in level:
                        found.setdefault(level["level"], []).append(level[key])
            levels = sorted(found)  # none for the gradient norm of uniform draws: their one gradient is no level's
            color = COLORS[list(NAMES).index(arm)]
            means = [float(np.mean(found[level])) for level in levels]
            axes.plot(
                [(level + 0.5) / 10 for level in levels], means, marker="o", markersize=4, color=color, label=NAMES[arm]
            )
        if key == "drift":
            axes.set_yscale("log")
        axes.set_title(label, fontsize=9, loc="left")
        axes.set_xlim(0, 1)
        axes.grid(alpha=0.3)
    figure.supxlabel("noise level t / T; means over the second half of training", fontsize=9)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=8, ncols=3, loc="outside upper center")
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None})
