"""The miniature at the smallest size that still does everything: a config's overrides, and the command that runs it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

STEPS, VIDEOS, SHOWN, PAIRS = 3, 8, 4, 4

SMALL = (
    f"stages.0.steps={STEPS}",
    f"evaluation.videos={VIDEOS}",
    f"evaluation.shown_videos={SHOWN}",
    "generator.conditions_per_request=4",
    f"learner.pairs_per_step={PAIRS}",
    f"learner.microbatch_pairs={PAIRS}",
    "learner.publish_every=1",  # a version a step, each pair once: what is asserted is easy to see
    "buffer.capacity=12",
    "buffer.max_uses=1",
    "buffer.max_staleness=1",
    "ranker.motion_share=1.0",
    "ranker.min_confidence=0.5",  # nothing is to be waited for
)


def command(*overrides: str) -> list[str]:
    """`apogee run` on the miniature with `SMALL` and the overrides."""
    return [sys.executable, "-m", "cluster.cli", "run", "configs/miniature.yaml", *SMALL, *overrides]


@contextlib.contextmanager
def started(*overrides: str) -> "Iterator[subprocess.Popen[str]]":
    """That command as a process in a group of its own, as a terminal would start it; nothing of it is left behind."""
    process = subprocess.Popen(
        command(*overrides),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite that was started in the background (`... &`, nohup) ignores SIGINT, and its children would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
