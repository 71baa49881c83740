"""Asks the actors what they are doing while they work, for the progress display and the metrics."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from buffers.records import RoleTimes

SHOWN_EVERY_SECONDS = 1.0
RECORDED_EVERY_SECONDS = 10.0


async def watch(crew: Any, progress: Any) -> None:
    """Runs until it is cancelled. An actor that cannot answer just now (busy, lost) is asked again later."""
    # One task for each actor: an actor answers between two calls, which may be minutes apart.
    actors = [(role, index) for role, count in crew.sizes.items() for index in range(count)]
    await asyncio.gather(
        _repeat(partial(_show, crew, progress), SHOWN_EVERY_SECONDS),
        _repeat(partial(record_verdicts, crew), RECORDED_EVERY_SECONDS),
        *(_repeat(partial(_record_times, crew, *actor), RECORDED_EVERY_SECONDS) for actor in actors),
    )


async def record_verdicts(crew: Any) -> None:
    """Records the buffer's counts since the run began, and how often something was lost since this command began."""
    counts = await crew.buffer.counts.remote()
    await crew.metrics.record.remote("verdicts", {**counts, "failures": crew.supervisor.count})


async def _repeat(ask: Callable[[], Awaitable[None]], every: float) -> None:
    while True:
        with contextlib.suppress(Exception):
            await ask()
        await asyncio.sleep(every)


async def _show(crew: Any, progress: Any) -> None:
    step, counts = await crew.metrics.latest.remote("step"), await crew.buffer.counts.remote()
    dropped = sum(count for key, count in counts.items() if key.startswith("dropped_"))
    learned = {key: step.get(key) for key in ("step", "loss", "implicit_accuracy")} if step else {}
    if warning := await crew.metrics.latest.remote("guard"):
        learned["warning"] = warning["advice"]
    if late := await crew.metrics.latest.remote("late"):
        learned["not_started"] = ", ".join(late["actors"]) or None
    progress.update(**learned, pairs_kept=counts["added"], pairs_dropped=dropped)


async def _record_times(crew: Any, role: str, index: int) -> None:
    times: RoleTimes = await crew.actor(role, index).times.remote()
    await crew.metrics.record.remote("roles", {"role": role, "index": index, **asdict(times)})
