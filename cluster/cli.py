"""The command line: `apogee check` prints what a config would do, `apogee run` does it, `apogee rank` judges two files.

ray is loaded by `run` alone, vllm by `rank`, torch by both and by `check`, and only after the files have been found
good. The same commands work as `python -m cluster.cli ...`, which is what a submitted Ray job calls.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from buffers.records import Domain
from cluster.checks.judge import check_judge
from cluster.checks.run import check
from cluster.commands.check import describe
from cluster.commands.data.arguments import add_command, add_data_commands
from configs.load import load_as, load_config
from configs.ranker import RankerScoringConfig, RankerTrainingConfig

USER_ERROR, INTERRUPTED = 2, 130

EXAMPLES = """examples:
  apogee check configs/miniature.yaml
  apogee run configs/miniature.yaml
  apogee run configs/miniature.yaml seed=1 out=runs/seed1 stages.0.steps=20
  apogee data ingest people/pairs.jsonl --into stores/people --config my.yaml
  apogee rank a.mp4 b.mp4 --prompt "a woman dancing" --config my.yaml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; answers the exit code: 0, 2 for something the user can put right, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return options.do(options)
    except (ValueError, OSError) as error:
        if getattr(error, "__notes__", None):
            raise  # the run had started and noted what it kept: not the user's mistake, so the traceback is shown
        return _refuse([str(error)])
    except KeyboardInterrupt as stopped:
        print(f"apogee: {stopped or 'stopped before anything was started'}", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apogee",
        description="Align a video diffusion transformer on its own inference trajectory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    text = "validate a config and its files and print what a run would do; starts nothing"
    _takes_config(add_command(commands, "check", text, _check), "configs/miniature.yaml", "learner.beta=500")
    text = "run it: generate, rank, learn, and write the adapter and the report"
    _takes_config(add_command(commands, "run", text, _run), "configs/miniature.yaml", "learner.beta=500")
    text = "judge two video files as a run would and print the verdict with its probabilities in both orders"
    rank = add_command(commands, "rank", text, _rank)
    rank.add_argument("videos", nargs=2, type=Path, metavar="VIDEO", help="two video files, A and B")
    rank.add_argument("--prompt", help="what the videos were made from; the judge finds the domain from it")
    rank.add_argument("--domain", choices=get_args(Domain), help="which rubric (default: the prompt's, else general)")
    rank.add_argument(
        "--config", required=True, help="whose `ranker` section is used: a YAML file, such as configs/miniature.yaml"
    )
    ranker = add_command(commands, "ranker", "the judge itself: fine-tune it on pairs of videos that people compared")
    parts = ranker.add_subparsers(required=True, metavar="command")
    text = "fine-tune a Qwen3-VL checkpoint: one LoRA adapter a domain; the same command goes on after a stop"
    _takes_config(add_command(parts, "train", text, _train_ranker), "my_ranker.yaml", "learning_rate=5e-5")
    text = "score it on held-out pairs: accuracy, position bias, calibration, and what it got wrong"
    _takes_config(add_command(parts, "score", text, _score_ranker), "my_scores.yaml", "out=runs/scores-2")
    add_data_commands(commands)
    return parser


def _takes_config(command: argparse.ArgumentParser, file: str, override: str) -> None:
    command.add_argument("config", metavar="CONFIG", help=f"a YAML file, such as {file}")
    command.add_argument("overrides", nargs="*", metavar="key=value", help=f"dotted keys, such as {override}")


def _check(options: argparse.Namespace) -> int:
    checked = check(load_config(options.config, options.overrides))
    print(describe(checked), flush=True)
    return _refuse(checked.problems)


def _run(options: argparse.Namespace) -> int:
    checked = check(load_config(options.config, options.overrides))
    if checked.problems:
        return _refuse(checked.problems)
    from cluster.launch import run

    print(f"done: {run(checked) / 'report.html'}")
    return 0


def _rank(options: argparse.Namespace) -> int:
    config = load_config(options.config).ranker
    check_judge(config)
    from rich.console import Console

    from cluster.commands.ranker.rank import rank_by_hand

    console = Console(highlight=False)
    rank_by_hand(config, *options.videos, prompt=options.prompt, domain=options.domain, console=console)
    return 0


def _train_ranker(options: argparse.Namespace) -> int:
    config = load_as(RankerTrainingConfig, options.config, options.overrides)
    from cluster.commands.ranker.train import train_ranker

    folder = train_ranker(config)
    print(f"done: adapters in {', '.join(str(folder / domain) for domain in config.domains)}")
    return 0


def _score_ranker(options: argparse.Namespace) -> int:
    config = load_as(RankerScoringConfig, options.config, options.overrides)
    from cluster.commands.ranker.score import score_ranker

    print(f"done: {score_ranker(config) / 'report.html'}")
    return 0


def _refuse(problems: Sequence[str]) -> int:
    """The exit code; each problem is a line on stderr."""
    for problem in problems:
        print(f"apogee: {problem}", file=sys.stderr)
    return USER_ERROR if problems else 0


if __name__ == "__main__":
    sys.exit(main())
