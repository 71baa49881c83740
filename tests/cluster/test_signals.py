"""A closed terminal, as the kernel tells it, and SIGTERM, each to a process of its own."""

import asyncio
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.signals import until_stopped
from tests.cluster.small_run import ROOT

LOOP = """
import asyncio, sys
from pathlib import Path
from cluster.signals import stopped_in_order, until_stopped

async def saves():
    print("ready", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        for _ in range(20):  # the shell tells it again
            print("saving", flush=True)
            await asyncio.sleep(0.02)
        Path(sys.argv[1]).write_text("saved")

with stopped_in_order():
    try:
        asyncio.run(until_stopped(saves()))
    except KeyboardInterrupt:
        sys.exit(130)
"""

PLAIN = """
import sys, time
from pathlib import Path
from cluster.signals import stopped_in_order

with stopped_in_order():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("said to nobody", flush=True)
        Path(sys.argv[1]).write_text("saved")
        sys.exit(130)
"""


def started(script: str, saved: Path, terminal: int, *, nohup: bool = False) -> "subprocess.Popen[Any]":
    """The script as the leader of a session on the terminal."""

    def prepare() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    command = [sys.executable, "-c", script, str(saved)]
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, preexec_fn=prepare, **streams)


@pytest.mark.parametrize("script", [LOOP, PLAIN])
@pytest.mark.parametrize("how", ["closed", "SIGTERM", "nohup"])
def test_a_stopped_command_saves(script: str, how: str, tmp_path: Path):
    ours, theirs = pty.openpty()
    process = started(script, tmp_path / "saved", theirs, nohup=how == "nohup")
    os.close(theirs)
    try:
        said = b""
        while b"\n" not in said:  # the terminal writes a line in pieces, and the script has to have written all of it
            said += os.read(ours, 100)
        assert b"ready" in said
        time.sleep(0.2)  # and has to have come back from writing
        if how == "nohup":
            process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
        if how == "closed":
            os.close(ours)
            process.send_signal(signal.SIGHUP)
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
        if how != "closed":
            os.close(ours)
    assert (tmp_path / "saved").read_text() == "saved"


def test_what_starts_in_the_block_never_hears_a_closed_terminal():
    from cluster.signals import signals_kept

    before = signal.getsignal(signal.SIGTERM)
    with signals_kept():
        signal.signal(signal.SIGTERM, lambda *_: None)  # as Ray does
        child = subprocess.Popen(["sleep", "60"])
    try:
        child.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        child.terminate()
        assert child.wait(60) == -signal.SIGTERM
    finally:
        child.kill()
        child.wait()
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_what_fails_beside_a_command_ends_it_in_order():
    ended: list[str] = []

    async def saves() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)
            ended.append("saved")

    async def watches(*, fails: bool) -> None:
        await asyncio.sleep(0.01 if fails else 60)
        raise RuntimeError("too many")

    with pytest.raises(RuntimeError, match="too many"):
        asyncio.run(until_stopped(saves(), watches(fails=False), watches(fails=True)))
    assert ended == ["saved"]


def test_a_command_that_ends_ends_what_watches_it():
    async def two() -> int:
        return 2

    assert asyncio.run(until_stopped(two(), asyncio.sleep(60))) == 2
