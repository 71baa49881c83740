"""Asks the actors what they are doing while they work, for the progress display and the metrics."""

import asyncio
import contextlib
from typing import Any

from buffers.records import RoleTimes

SHOWN_EVERY_SECONDS = 1.0
RECORDED_EVERY_SECONDS = 10.0


async def watch(crew: Any, progress: Any) -> None:
    """Runs until it is cancelled. An actor that cannot answer just now (busy, lost) is asked again later."""
    watchers = [_watch_role(crew, role, index) for role, count in crew.sizes.items() for index in range(count)]
    await asyncio.gather(_show(crew, progress), _watch_verdicts(crew), *watchers)


async def record_verdicts(crew: Any) -> None:
    """Records the buffer's counts since the run began."""
    await crew.metrics.record.remote("verdicts", await crew.buffer.counts.remote())


async def _show(crew: Any, progress: Any) -> None:
    while True:
        with contextlib.suppress(Exception):
            step, counts = await crew.metrics.latest.remote("step"), await crew.buffer.counts.remote()
            dropped = sum(count for key, count in counts.items() if key.startswith("dropped_"))
            learned = {key: step[key] for key in ("step", "loss", "implicit_accuracy")} if step else {}
            progress.update(**learned, pairs_kept=counts["added"], pairs_dropped=dropped)
        await asyncio.sleep(SHOWN_EVERY_SECONDS)


async def _watch_verdicts(crew: Any) -> None:
    while True:
        with contextlib.suppress(Exception):
            await record_verdicts(crew)
        await asyncio.sleep(RECORDED_EVERY_SECONDS)


async def _watch_role(crew: Any, role: str, index: int) -> None:
    """One task for each actor: an actor answers between two calls, which may be minutes apart."""
    while True:
        with contextlib.suppress(Exception):
            times: RoleTimes = await crew.actor(role, index).times.remote()
            row = {"busy_s": times.busy_s, "waiting_s": times.waiting_s, "counts": times.counts}
            await crew.metrics.record.remote("roles", {"role": role, "index": index, **row})
        await asyncio.sleep(RECORDED_EVERY_SECONDS)
