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
from cluster.checks.run import Checked, check
from cluster.commands.check import describe
from cluster.commands.data.arguments import add_data_commands, run_data_command
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
        if options.command == "rank":
            return _rank(options)
        if options.command == "data":
            return run_data_command(options)
        if options.command == "ranker":
            return _train_ranker(options) if options.part == "train" else _score_ranker(options)
        checked = check(load_config(options.config, options.overrides))
        if options.command == "check":
            print(describe(checked))
            sys.stdout.flush()
        if checked.problems:
            return _refuse(checked.problems)
        return _run(checked) if options.command == "run" else 0
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
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in (
        ("check", "validate a config and its files and print what a run would do; starts nothing"),
        ("run", "run it: generate, rank, learn, and write the adapter and the report"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        _takes_config(command, "configs/miniature.yaml", "learner.beta=500")
    text = "judge two video files as a run would and print the verdict with its probabilities in both orders"
    rank = commands.add_parser("rank", help=text, description=text)
    rank.add_argument("videos", nargs=2, type=Path, metavar="VIDEO", help="two video files, A and B")
    rank.add_argument("--prompt", help="what the videos were made from; the judge finds the domain from it")
    rank.add_argument("--domain", choices=get_args(Domain), help="which rubric (default: the prompt's, else general)")
    rank.add_argument(
        "--config", required=True, help="whose `ranker` section is used: a YAML file, such as configs/miniature.yaml"
    )
    text = "the judge itself: fine-tune it on pairs of videos that people compared"
    ranker = commands.add_parser("ranker", help=text, description=text)
    parts = ranker.add_subparsers(dest="part", required=True, metavar="command")
    text = "fine-tune a Qwen3-VL checkpoint: one LoRA adapter a domain; the same command goes on after a stop"
    train = parts.add_parser("train", help=text, description=text)
    _takes_config(train, "my_ranker.yaml", "learning_rate=5e-5")
    text = "score it on held-out pairs: accuracy, position bias, calibration, and what it got wrong"
    score = parts.add_parser("score", help=text, description=text)
    _takes_config(score, "my_scores.yaml", "out=runs/scores-2")
    add_data_commands(commands)
    return parser


def _takes_config(command: argparse.ArgumentParser, file: str, override: str) -> None:
    command.add_argument("config", metavar="CONFIG", help=f"a YAML file, such as {file}")
    command.add_argument("overrides", nargs="*", metavar="key=value", help=f"dotted keys, such as {override}")


def _run(checked: Checked) -> int:
    from cluster.launch import run

    folder = run(checked)
    print(f"done: {folder / 'report.html'}")
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
    for problem in problems:
        print(f"apogee: {problem}", file=sys.stderr)
    return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
