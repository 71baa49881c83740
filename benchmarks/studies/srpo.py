"""SRPO on the miniature: what a reward teaches, by the reward and by a meter that never saw it.

    RUN="apogee run configs/miniature-srpo.yaml"
    $RUN seed=1 out=runs/srpo/srpo-1                                                   # as it is shipped
    ONE="stages.0.inversion=false"
    $RUN seed=1 out=runs/srpo/without-inversion-1 $ONE
    $RUN seed=1 out=runs/srpo/absolute-1 $ONE reward.words=null                        # Direct-Align alone
    $RUN seed=1 out=runs/srpo/refl-1 $ONE stages.0.recover=one_step "learner.timesteps.levels=[0.6, 0.95]"
    # Before and after Diffusion-APO: all three arms are 54 thousand passes of the transformer (a step of SRPO is 224 of
    # them, one of APO 400: generation, reference, forward, and backward twice).
    RUN="apogee run configs/miniature.yaml"
    LEARNER="{learning_rate: 2e-4, pairs_per_step: 4, microbatch_pairs: 4, publish_every: 2, timesteps: {kind: levels}}"
    SRPO="{kind: direct_align, steps: 80, inversion: true, buffer: {capacity: 16, max_uses: 1}, learner: $LEARNER}"
    WORDS="words: examples/miniature/prompts/control_words.yaml"
    REWARD="reward={path: examples/miniature/weights/reward, $WORDS, latent_frames: 2, frames: 8}"
    $RUN seed=1 out=runs/srpo/srpo-then-apo-1 "$REWARD" "stages=[$SRPO, {kind: online, steps: 90}]"
    $RUN seed=1 out=runs/srpo/apo-then-srpo-1 "$REWARD" "stages=[{kind: online, steps: 90}, $SRPO]"
    $RUN seed=1 out=runs/srpo/apo-135-steps-1 stages.0.steps=135
    python -m benchmarks.studies.srpo runs/srpo/* --out docs/results/srpo

A run's arm is its folder's name up to the last `-`. Writes `report.md` and `runs.jsonl`, the values of every video;
runs that it holds stay in it unless the same arm and seed is given anew. Differences are paired, video by video.
Intervals are 95%, over the held-out prompts and the seeds of training.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.curriculum import table, text
from benchmarks.studies.pooled import difference_of_runs
from buffers.figures import Figure, figure
from cluster.monitor.rows import evaluation_rows, read_metrics
from cluster.monitor.wording import figure_value
from cluster.report.summary import read_config, reward_auc
from cluster.run_folder import RunFolder

WHAT = {"reward": "reward", "distorted": "distorted", "motion": "motion, pixels a frame", "obeyed": "as asked"}
METERED = tuple(WHAT)[1:]

Row = dict[str, Any]


def read_run(folder: Path) -> Row:
    """A run's videos before and after, in columns: arm, seed, minutes, and how well its reward tells them apart."""
    run = RunFolder(folder)
    evaluations = evaluation_rows(read_metrics(run.metrics_file))
    seconds = json.loads(run.summary_file.read_text(encoding="utf-8"))["seconds"]
    columns = {
        phase: {name: each for name, each in evaluations[phase]["measured"].items() if name in ("prompt", *WHAT)}
        for phase in ("before", "after")
    }
    for phase in columns.values():  # four digits are enough, and a third of the file
        phase["reward"] = [round(value, 4) for value in phase.get("reward", ())]
    found = {"arm": folder.name.rpartition("-")[0], "seed": read_config(run)["seed"], "minutes": seconds / 60}
    return {**found, "auc": reward_auc(evaluations["before"]), **columns}


def changes(runs: Sequence[Row], what: str) -> Figure:
    """Of all runs of an arm, paired."""
    after, before = ([value for run in runs for value in run[phase][what]] for phase in ("after", "before"))
    prompts = [prompt for run in runs for prompt in run["after"]["prompt"]]
    seeds = [run["seed"] for run in runs for _ in run["after"]["prompt"]]
    return difference_of_runs(after, before, prompts=prompts, runs=seeds)


def report(rows: Sequence[Row]) -> str:
    """The table, in Markdown."""
    first = rows[0]
    videos = len(first["before"]["prompt"])
    arms = {arm: [row for row in rows if row["arm"] == arm] for arm in dict.fromkeys(row["arm"] for row in rows)}
    base = {what: figure(first["before"][what], prompts=first["before"]["prompt"]) for what in METERED}
    lines = [
        "# SRPO on the miniature",
        "",
        f"Made by `python -m benchmarks.studies.srpo` from `runs.jsonl`. {videos} videos of "
        f"{len(set(first['before']['prompt']))} held-out prompts before and after. AUC: how often the arm's reward "
        "prefers a good video of the base to a distorted one; 0.5 is chance. The base: "
        + "; ".join(f"{WHAT[what]} {text(found)}" for what, found in base.items())
        + ".",
        "",
    ]
    found = []
    for arm, runs in arms.items():
        changed = [text(changes(runs, what)) if runs[0]["after"][what] else "" for what in WHAT]
        minutes = ", ".join(f"{run['minutes']:.0f}" for run in runs)
        each = ", ".join(figure_value(figure(run["after"]["distorted"])) for run in runs)
        seeds = ", ".join(str(run["seed"]) for run in runs)
        found.append([arm, seeds, text(runs[0]["auc"]) if runs[0]["auc"] else "", *changed, each, minutes])
    head = [
        "arm",
        "seeds",
        "AUC of its reward",
        *(f"{title}, change" for title in WHAT.values()),
        "distorted after, each",
        "minutes",
    ]
    return "\n".join([*lines, *table(head, found)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    kept = arguments.out / "runs.jsonl"
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    rows += [read_run(run) for run in arguments.runs]
    rows = sorted({(row["arm"], row["seed"]): row for row in rows}.values(), key=lambda row: (row["arm"], row["seed"]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (arguments.out / "report.md").write_text(report(rows), encoding="utf-8")
    print(arguments.out / "report.md")


if __name__ == "__main__":
    main()
