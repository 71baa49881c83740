"""What is going on, asked of the actors while they work: for the progress display and the metrics."""

import asyncio
import contextlib
from typing import Any

from buffers.records import RoleTimes

SHOWN_EVERY_SECONDS = 1.0
RECORDED_EVERY_SECONDS = 10.0


async def watch(crew: Any, progress: Any) -> None:
    """Until it is cancelled. An actor that cannot answer just now (busy, lost) is asked again later."""
    watchers = [_watch_role(crew, role, index) for role, count in crew.sizes.items() for index in range(count)]
    await asyncio.gather(_show(crew, progress), _watch_verdicts(crew), *watchers)


async def record_verdicts(crew: Any) -> None:
    """The buffer's cumulative counts as they are now."""
    await crew.metrics.record.remote("verdicts", await crew.buffer.counts.remote())


async def _show(crew: Any, progress: Any) -> None:
    while True:
        with contextlib.suppress(Exception):
            step, counts = await crew.metrics.latest.remote("step"), await crew.buffer.counts.remote()
            dropped = sum(count for key, count in counts.items() if key.startswith("dropped_"))
            learned = {key: step[key] for key in ("step", "version", "loss", "implicit_accuracy")} if step else {}
            progress.update(kept=counts["added"], dropped=dropped, **learned)
        await asyncio.sleep(SHOWN_EVERY_SECONDS)


async def _watch_verdicts(crew: Any) -> None:
    while True:
        with contextlib.suppress(Exception):
            await record_verdicts(crew)
        await asyncio.sleep(RECORDED_EVERY_SECONDS)


async def _watch_role(crew: Any, role: str, index: int) -> None:
    """A task of its own for every actor: an actor answers between two calls, which may be minutes apart."""
    while True:
        with contextlib.suppress(Exception):
            times: RoleTimes = await crew.actor(role, index).times.remote()
            row = {"busy_s": times.busy_s, "waiting_s": times.waiting_s, "counts": times.counts}
            await crew.metrics.record.remote("roles", {"role": role, "index": index, **row})
        await asyncio.sleep(RECORDED_EVERY_SECONDS)
