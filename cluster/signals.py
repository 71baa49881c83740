"""A terminal that is closed and a job that is stopped end a command as Ctrl-C does: in order."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

STOPPING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stopped_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt in the block. If one is ignored, it stays so (`nohup`)."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def until_stopped(main: Coroutine[Any, Any, Result], *watching: Coroutine[Any, Any, None]) -> Result:
    """What `main` returns; SIGTERM and SIGHUP cancel it as Ctrl-C does, and KeyboardInterrupt is raised at its end.

    watching: run beside it; if one of them fails, `main` is cancelled, too, and the failure is raised at its end.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(main)
    watchers = [*map(asyncio.ensure_future, watching)]

    def give_up(_: Any) -> None:
        task.cancel()

    for each in watchers:
        each.add_done_callback(give_up)

    def stop(number: int) -> None:
        if number == signal.SIGHUP:
            loop.remove_signal_handler(number)
        _heard(number)
        for each in watchers:
            each.remove_done_callback(give_up)  # it is ending already
        task.cancel()

    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        for each in watchers:
            if each.done():
                each.result()
        raise KeyboardInterrupt from None
    finally:
        for each in watchers:
            each.cancel()
        for number, handler in before.items():
            if loop.remove_signal_handler(number):
                signal.signal(number, handler)


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """For a block in which Ray starts: it puts a handler of its own in the place of SIGTERM's, which is put back.

    A terminal that is closed tells every process of its group. Ray's own must not end before the run has stopped. What
    is blocked here is inherited by them; this process hears it after the block.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _stop(number: int, frame: FrameType | None) -> None:
    _heard(number)
    raise KeyboardInterrupt


def _heard(number: int) -> None:
    """A closed terminal tells a process more than once, by its kernel and its shell, and it cannot be written to."""
    if number != signal.SIGHUP:
        return
    signal.signal(number, signal.SIG_IGN)
    for output in (1, 2):
        try:
            os.write(output, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
