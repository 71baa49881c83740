"""The five stages on the miniature: what each does to distortion, motion and what was asked, over several seeds.

    make curriculum ARGS="seed=1 out=runs/curriculum/1"          # and other seeds
    NONE="learner.timesteps.random_shift=false learner.timesteps.random_offset=false"
    make curriculum ARGS="seed=1 out=runs/plain/1 last_stage=3 $NONE"   # without shift and offset, up to `distill`
    python -m benchmarks.studies.curriculum runs/curriculum/* --plain runs/plain/* --out docs/results/curriculum

Writes `report.md`, `stages.svg` and `runs.jsonl`, the meter's values of every video. Runs that `runs.jsonl` holds
already stay in it, unless the same seed and arm is given anew. Intervals are 95%, over the held-out prompts and the
seeds of training; differences are paired, video by video.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure as Canvas

from benchmarks.studies.pooled import difference_of_runs, figure_of_runs
from buffers.figures import Figure, figure
from cluster.monitor.rows import evaluation_rows, read_metrics
from cluster.monitor.wording import figure_interval, figure_value
from cluster.report.summary import read_config, stages_run
from cluster.run_folder import RunFolder
from configs.stages import phases_after

WHAT = {"distorted": "distorted", "motion": "motion, pixels a frame", "obeyed": "as asked"}
WITH, PLAIN = "with random shift and offset", "without"
TEACHER, STUDENT = "offline", "distill"
"""The stages whose policies are the guided teacher and the student."""

Row = dict[str, Any]


def read_run(folder: Path, arm: str) -> Row:
    """A run's videos by stage, as its meter measured them: seed, arm, `stages` and, of each, columns."""
    run = RunFolder(folder)
    config = read_config(run)
    kinds = [stage["kind"] for stage in stages_run(config)]
    evaluations = evaluation_rows(read_metrics(run.metrics_file))
    seconds = json.loads(run.summary_file.read_text(encoding="utf-8"))["seconds"]
    found: Row = {"seed": config["seed"], "arm": arm, "minutes": seconds / 60, "stages": {}}
    for kind, phase in zip(
        ["base", *kinds], ["before", *phases_after(kinds, first=config["first_stage"])], strict=True
    ):
        row = evaluations[phase]
        columns = {name: row["measured"][name] for name in ("prompt", *WHAT)}
        found["stages"][kind] = columns | {key: row[key] for key in ("passes", "seconds")}
    return found


class Pooled:
    """One stage's videos of several runs, in the same order in each."""

    def __init__(self, runs: Sequence[Row], kind: str) -> None:
        self._of = [(run["seed"], run["stages"][kind]) for run in runs]
        self.prompts = [prompt for _, stage in self._of for prompt in stage["prompt"]]
        self.runs = [seed for seed, stage in self._of for _ in stage["prompt"]]

    def values(self, what: str) -> list[Any]:
        return [value for _, stage in self._of for value in stage[what]]

    def mean(self, what: str) -> Figure:
        return figure_of_runs(self.values(what), prompts=self.prompts, runs=self.runs)

    def less(self, other: "Pooled", what: str) -> Figure:
        return difference_of_runs(self.values(what), other.values(what), prompts=self.prompts, runs=self.runs)

    def each(self, key: str) -> list[float]:
        return [stage[key] for _, stage in self._of]


def text(found: Figure) -> str:
    return f"{figure_value(found)} ({figure_interval(found)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] + [""]


def stages_of(runs: Sequence[Row]) -> dict[str, Pooled]:
    return {kind: Pooled(runs, kind) for kind in runs[0]["stages"]}


def report(rows: Sequence[Row]) -> str:
    """The tables, in Markdown."""
    runs, plain = ([row for row in rows if row["arm"] == arm] for arm in (WITH, PLAIN))
    stages = stages_of(runs)
    base, *_ = stages.values()
    seeds, minutes = (", ".join(f"{run[key]:.0f}" for run in runs) for key in ("seed", "minutes"))
    videos, prompts = len(base.prompts) // len(runs), len(set(base.prompts))
    lines = [
        "# The five stages on the miniature",
        "",
        f"Made by `python -m benchmarks.studies.curriculum` from `runs.jsonl`. Seeds {seeds}; {videos} videos of "
        f"{prompts} held-out prompts after each stage; {minutes} minutes. Intervals: 95%, over prompts and seeds of "
        "training (the base is one policy: over prompts). Differences are paired: `by it` to the stage before, "
        "`so far` to the base.",
        "",
    ]
    for what, title in WHAT.items():
        found, before = [], None
        for kind, stage in stages.items():
            by_it = text(stage.less(before, what)) if before else ""
            of_each = ", ".join(figure_value(figure(run["stages"][kind][what])) for run in runs)
            so_far = text(stage.less(base, what)) if before else ""
            found.append([kind, text(stage.mean(what)), by_it, so_far, of_each])
            before = stage
        lines += table([f"{title}, after", "all seeds", "by it", "so far", "each seed"], found)
    teacher, student, last = stages[TEACHER], stages[STUDENT], list(stages)[-1]
    slow, fast = teacher.each("seconds"), student.each("seconds")
    times = ", ".join(f"{one:.3f} and {two:.3f} ({one / two:.2f} times)" for one, two in zip(slow, fast, strict=True))
    passes = f"{teacher.each('passes')[0]} and {student.each('passes')[0]} transformer passes a video"
    gaps = [text(stages[last].less(teacher, what)) for what in ("distorted", "obeyed")]
    lines += [
        f"Guided teacher and student: {passes}; seconds a video {times}. The student after `{last}` less its teacher, "
        f"distorted: {gaps[0]}; as asked: {gaps[1]}.",
        "",
    ]
    if plain:
        lines += _shift_and_offset(runs, plain)
    return "\n".join(lines)


def _shift_and_offset(runs: Sequence[Row], plain: Sequence[Row]) -> list[str]:
    """The paper's Fig. 3: with and without random shift and offset, before and after the distillation."""
    both = [run for run in runs if run["seed"] in {other["seed"] for other in plain}]
    arms = {WITH: stages_of(both), PLAIN: stages_of(plain)}
    rows = [
        [
            arm,
            *(text(stages[kind].mean("distorted")) for kind in (TEACHER, STUDENT)),
            text(stages[STUDENT].less(stages[TEACHER], "distorted")),
        ]
        for arm, stages in arms.items()
    ]
    less = [text(arms[WITH][kind].less(arms[PLAIN][kind], "distorted")) for kind in (TEACHER, STUDENT)]
    return [
        "## Random shift and offset, before and after distillation (the paper's Fig. 3)",
        "",
        *table(["distorted", "before `distill`", "after", "paired"], [*rows, ["with, less without", *less, ""]]),
    ]


def plot(rows: Sequence[Row], file: Path) -> None:
    """Each figure after each stage, with its interval, and every seed."""
    runs = [row for row in rows if row["arm"] == WITH]
    stages = stages_of(runs)
    canvas = Canvas(figsize=(11, 3.2), layout="constrained")
    for axes, (what, title) in zip(canvas.subplots(1, len(WHAT)), WHAT.items(), strict=True):
        means = [stage.mean(what) for stage in stages.values()]
        ends = [[abs(end - mean["value"]) for mean in means for end in [mean["interval"][side]]] for side in (0, 1)]
        axes.errorbar(list(stages), [mean["value"] for mean in means], ends, fmt="o-", capsize=4, color="#0072B2")
        for run in runs:
            each = [figure(run["stages"][kind][what])["value"] for kind in stages]
            axes.plot(list(stages), each, ".", color="#808080", alpha=0.7)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", rotation=35)
    with matplotlib.rc_context({"svg.hashsalt": "stages"}):  # the same figures are the same file
        canvas.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--plain", nargs="*", type=Path, default=[])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    kept = arguments.out / "runs.jsonl"
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    rows += [read_run(run, WITH) for run in arguments.runs] + [read_run(run, PLAIN) for run in arguments.plain]
    rows = list({(row["arm"] == PLAIN, row["seed"]): row for row in rows}.values())
    rows.sort(key=lambda row: (row["arm"] == PLAIN, row["seed"]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (arguments.out / "report.md").write_text(report(rows), encoding="utf-8")
    plot(rows, arguments.out / "stages.svg")
    print(arguments.out / "report.md")


if __name__ == "__main__":
    main()
