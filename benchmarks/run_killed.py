"""Is a run that is killed again and again, and continued with the same command, the same run? Bit for bit.

    python -m benchmarks.run_killed --kills 3 --out build/run_killed.json

Two runs of the miniature, strictly on-policy, with one generator and a function as the judge: one is left alone, the
other gets SIGKILL, with all of its processes, at random moments after its first optimizer step. Every tensor of their
adapters is compared byte for byte. (Not the files: safetensors writes its metadata in an order that chance decides.)
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from safetensors.numpy import load_file

from cluster.monitor.rows import of_kind, read_metrics

ADAPTER = Path("adapter") / "pytorch_lora_weights.safetensors"
PATIENCE_S = 300.0

SETTINGS = (
    "ranker.kind=function",
    "ranker.function=examples.miniature.brightness:brightness",
    "buffer.max_staleness=0",
    "buffer.max_uses=1",
    "buffer.capacity=8",
    "generator.conditions_per_request=3",
    "learner.pairs_per_step=4",
    "learner.microbatch_pairs=4",
    "learner.publish_every=1",
    "learner.checkpoint_every=3",
    "evaluation.videos=2",
    "evaluation.shown_videos=0",
)


def command(out: Path, steps: int, *others: str) -> list[str]:
    """The run; `others`: further settings."""
    run = [sys.executable, "-m", "cluster.cli", "run", "configs/miniature.yaml"]
    return [*run, *SETTINGS, f"stages.0.steps={steps}", *others, f"out={out}"]


def left_alone(command: list[str], out: Path) -> dict[str, bytes]:
    """The adapter of a run that nobody disturbs, tensor by tensor."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _tensors(out)


def killed(command: list[str], out: Path, *, kills: int, rng: random.Random) -> tuple[dict[str, bytes], list[int]]:
    """The adapter of a run that is killed so many times, and how many steps were done at each kill."""
    at = []
    for _ in range(kills):
        before = _steps_done(out)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + PATIENCE_S
        wanted = before + 1 if before else 1
        while _steps_done(out) < wanted and process.poll() is None:
            assert time.monotonic() < deadline, "the run did not come to its next step"
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.5))
        _kill_all(process.pid)
        process.wait()
        at.append(_steps_done(out))
    return left_alone(command, out), at


def _tensors(out: Path) -> dict[str, bytes]:
    tensors = load_file(out / ADAPTER)
    assert tensors, f"{out / ADAPTER} holds an adapter"
    return {name: f"{tensor.dtype} {tensor.shape} ".encode() + tensor.tobytes() for name, tensor in tensors.items()}


def _steps_done(out: Path) -> int:
    return max((row["step"] for row in of_kind(read_metrics(out / "metrics.jsonl"), "step")), default=0)


def _kill_all(pid: int) -> None:
    """SIGKILL for the command and everything that it started; returns when all of it has ended."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    psutil.wait_procs(family, timeout=30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file for the result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "alone"
        alone = left_alone(command(out, options.steps), out)
        started, out = time.monotonic(), Path(folder) / "killed"
        continued, at = killed(command(out, options.steps), out, kills=options.kills, rng=random.Random(options.seed))
    result: dict[str, Any] = {
        "bit_equal": alone == continued,
        "kills": options.kills,
        "steps": options.steps,
        "steps_done_at_each_kill": at,
        "seconds": round(time.monotonic() - started, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
