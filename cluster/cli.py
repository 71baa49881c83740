"""The command line: `apogee check` prints what a config would do, `apogee run` does it, `apogee rank` judges two files.

ray is loaded by `run` alone, vllm by `rank`, torch by both, by `check` and by `export`, and only after the files have
been found good. The same commands work as `python -m cluster.cli ...`, which is what a submitted Ray job calls. The
docstring of a command is its help text.
"""

from cluster.shadows import refuse_shadows

refuse_shadows()  # before anything is imported that may be hidden

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from buffers.records import Domain
from cluster.checks.judge import check_judge
from cluster.checks.run import check
from cluster.commands.data.arguments import data
from cluster.signals import stopped_in_order
from configs.load import load_as, load_config
from configs.paths import path
from configs.ranker import RankerScoringConfig, RankerTrainingConfig

if TYPE_CHECKING:  # it loads torch
    from cluster.commands.export import Format

USER_ERROR, INTERRUPTED = 2, 130

EXAMPLES = """\b
examples:
  apogee check configs/miniature.yaml
  apogee run configs/miniature.yaml
  apogee run configs/miniature.yaml seed=1 out=runs/seed1 stages.0.steps=20
  apogee data ingest people/pairs.jsonl --into stores/people --config my.yaml
  apogee rank a.mp4 b.mp4 --prompt "a woman dancing" --config my.yaml
"""

CONFIG = click.argument("config", metavar="CONFIG", help="A YAML file, such as configs/miniature.yaml.")
OVERRIDES = click.argument(
    "overrides", nargs=-1, metavar="[key=value]...", help="Dotted keys of it, such as learner.beta=500 or out=runs/2."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; answers the exit code: 0, 2 for something the user can put right, 130 after Ctrl-C or the like.

    Raises SystemExit(2) if the command line itself is wrong. click's own `main` would take Ctrl-C and its words away.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no prompt or path ends a command because of its letters
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        with stopped_in_order(), apogee.make_context("apogee", given) as context:
            return apogee.invoke(context) or 0
    except click.exceptions.Exit as done:  # the help was printed
        return done.exit_code
    except click.ClickException as error:
        error.show()
        sys.exit(USER_ERROR)
    except (ValueError, OSError) as error:
        if getattr(error, "__notes__", None):
            raise  # the run had started and noted what it kept: not the user's mistake, so the traceback is shown
        return _refuse([str(error)])
    except KeyboardInterrupt as stopped:
        print(f"apogee: {str(stopped) or 'stopped before anything was started'}", file=sys.stderr)
        return INTERRUPTED


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
def apogee() -> None:
    """Align a video diffusion transformer on its own inference trajectory."""


@apogee.command("check")
@CONFIG
@OVERRIDES
def _check(config: str, overrides: Sequence[str]) -> int:
    """Validate a config and its files and print what a run would do.

    Starts nothing.
    """
    from cluster.commands.check import describe

    checked = check(load_config(config, overrides))
    print(describe(checked), end="", flush=True)
    return _refuse(checked.problems)


@apogee.command("run")
@CONFIG
@OVERRIDES
def _run(config: str, overrides: Sequence[str]) -> int | None:
    """Generate, rank, learn, and write the adapter and the report."""
    checked = check(load_config(config, overrides))
    if checked.problems:
        return _refuse(checked.problems)
    from cluster.launch import run

    print(f"done: {run(checked) / 'report.html'}")


@apogee.command("status")
@click.argument("place", type=path, metavar="RUN", help="A run's folder.")
def _status(place: Path) -> None:
    """Say how a run stands, from another terminal or machine.

    Reads the run's folder alone.
    """
    from cluster.commands.status import status

    print(status(place), end="")


@apogee.command("simulate")
@CONFIG
@OVERRIDES
@click.option("--costs", type=path, metavar="FILE", help="A YAML file of seconds, or the folder of a run to go by.")
@click.option(
    "--flops",
    type=click.FloatRange(1.0),
    metavar="N",
    help="Or compute them, for GPUs that reach N FLOP/s, such as 4e14.",
)
@click.option("--gpus", type=click.IntRange(2, 10**5), multiple=True, help="Also the best split of so many GPUs.")
@click.option("--out", type=path, metavar="FOLDER", help="A new folder for the table as JSON, and a plot.")
def _simulate(config: str, overrides: Sequence[str], **given: Any) -> None:
    """Tell the pace of a config, and the best split of GPUs.

    Runs its online loop in virtual time. Starts nothing.
    """
    loaded = load_config(config, overrides)
    from cluster.commands.simulate import report

    print(report(loaded, **given), end="")


@apogee.command("rank")
@click.argument("videos", nargs=2, type=path, metavar="VIDEO VIDEO", help="Two video files, A and B.")
@click.option("--prompt", help="What the videos were made from; the judge finds the domain from it.")
@click.option(
    "--domain", type=click.Choice(get_args(Domain)), help="Which rubric (default: the prompt's, else general)."
)
@click.option("--config", required=True, metavar="CONFIG", help="The YAML file whose `ranker` section is used.")
def _rank(videos: tuple[Path, Path], prompt: str | None, domain: Domain | None, config: str) -> None:
    """Judge two video files as a run would.

    Prints the verdict with its probabilities in both orders.
    """
    judge = load_config(config).ranker
    check_judge(judge)
    from rich.console import Console

    from cluster.commands.ranker.rank import rank_by_hand

    rank_by_hand(judge, *videos, prompt=prompt, domain=domain, console=Console(highlight=False))


@apogee.command("evaluate")
@click.argument("policies", nargs=-1, required=True, metavar="POLICY...", help="A run's folder, an adapter's, or base.")
@click.option("--prompts", required=True, metavar="FILE", help="Prompts that none of them was trained on.")
@click.option("--out", required=True, type=path, metavar="FOLDER", help="Where to; a new folder.")
@click.option(
    "--config", metavar="CONFIG", help="Model, judge, meter and actors (default: the first run's own config)."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A key of that config, e.g. ranker.path=x."
)
@click.option("--seeds", type=click.IntRange(1, 50), default=3, show_default=True, help="Videos of each prompt.")
@click.option("--judge/--no-judge", "judged", default=True, help="Whether the judge compares all with the first.")
@click.option("--vbench", type=path, metavar="FOLDER", help="Also write the videos as VBench wants to read them.")
def _evaluate(policies: Sequence[str], out: Path, vbench: Path | None, **given: Any) -> None:
    """Compare policies on the same prompts and noises.

    Each is sampled as it was trained to be. The first one is what the others are compared with.
    """
    from cluster.commands.evaluate import prepare, run_comparison

    ready = prepare(policies, out=out, vbench=vbench, **given)
    print(f"done: {run_comparison(ready, out, vbench=vbench)}")


@apogee.command("export")
@click.argument("place", type=path, metavar="RUN", help="A run's folder, or an adapter's in runs/x/adapters.")
@click.option("--format", "kind", required=True, type=click.Choice(["diffusers", "comfyui", "merged"]))
@click.option("--out", required=True, type=path, metavar="FOLDER", help="Where to; a new folder.")
@click.option("--model", type=path, metavar="BUNDLE", help="The base to merge with (default: the run's).")
def _export(place: Path, kind: "Format", out: Path, model: Path | None) -> None:
    """Write a run's adapter for other programs.

    For diffusers, for ComfyUI, or merged into its base as a pipeline folder. Two experts are a file each.
    """
    from cluster.commands.export import export

    print(f"done: {export(place, kind, out, model=model)}")


@apogee.group()
def ranker() -> None:
    """The judge itself: fine-tune and score it.

    It learns from pairs of videos that people compared.
    """


@ranker.command("train")
@CONFIG
@OVERRIDES
def _train_ranker(config: str, overrides: Sequence[str]) -> None:
    """Fine-tune a Qwen3-VL checkpoint: one LoRA adapter a domain.

    The same command goes on after a stop.
    """
    training = load_as(RankerTrainingConfig, config, overrides)
    from cluster.commands.ranker.train import train_ranker

    folder = train_ranker(training)
    print(f"done: adapters in {', '.join(str(folder / domain) for domain in training.domains)}")


@ranker.command("score")
@CONFIG
@OVERRIDES
def _score_ranker(config: str, overrides: Sequence[str]) -> None:
    """Score the judge on held-out pairs.

    Tells accuracy, position bias, calibration, and what it got wrong.
    """
    scoring = load_as(RankerScoringConfig, config, overrides)
    from cluster.commands.ranker.score import score_ranker

    print(f"done: {score_ranker(scoring) / 'report.html'}")


def _refuse(problems: Sequence[str]) -> int:
    """The exit code; each problem is a line on stderr."""
    for problem in problems:
        print(f"apogee: {problem}", file=sys.stderr)
    return USER_ERROR if problems else 0


apogee.add_command(data)

if __name__ == "__main__":
    sys.exit(main())
