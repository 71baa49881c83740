"""The learner's side of a stage: take, step, publish, save, and stop if a guard says so. Callables join it to the rest.

`on_ray/learner_worker.py` runs it in every process of the Ray Train group; the tests run it in a thread.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from buffers.records import Batch, Snapshot
from learner.guards import Finding
from learner.samples import UnusablePairs

Result = TypeVar("Result")

MOST_SET_ASIDE = 3


def learn_steps(
    learner: Any,
    *,
    steps: int,
    first_step: int = 0,
    first_version: int,
    publish_every: int,
    checkpoint_every: int,
    take: Callable[[int], Batch | None],
    publish: Callable[[Snapshot], None],
    save: Callable[[int, bool, Snapshot | None], None],
    record: Callable[[str, dict[str, Any]], None],
    agree: Callable[[bool], bool] = bool,
    checkpoint_seconds: float = math.inf,
    teacher: Callable[[int], Snapshot] | None = None,
    guard: Callable[[Mapping[str, Any]], Sequence[Finding]] = lambda measured: (),
    evaluate: Callable[[], None] = lambda: None,
    evaluate_every: int = 0,
    take_back: Callable[[], None] = lambda: None,
    set_aside: Callable[[int, Sequence[str]], None] = lambda step, ids: None,
    held: Snapshot | None = None,
) -> int:
    """Step until the learner has made `steps` steps or there is nothing more to take; return how many it has made.

    first_step: the learner's step at which the stage began, which may have been in an earlier process.
    first_version: the version of the weights that generators hold: those of now, or `held`. They are published before
        anything is taken, since generators need them to start. Every later publication counts one up.
    take: this rank's share of the batch of a step; None if the buffer is closed.
    save: is given the version of the weights that generators hold, whether a guard has ended the stage, and these
        weights if they are not those of now: a run that goes on publishes them again. It is called every
        `checkpoint_every` steps, and if `checkpoint_seconds` have passed: after every step that takes longer.
    guard: is shown the figures of every step. A finding that stops ends the loop; then `take_back` puts the best
        adapter of the stage in the place of the last one.
    evaluate: is called after every `evaluate_every` steps of the stage (0: never).
    teacher: gives the weights that are published until the last step, in place of the learner's own ones.
    set_aside: is given a step and ids of pairs that it cannot learn from; the batch is taken again. Each rank names its
        own ones. If that happens `MOST_SET_ASIDE` times to one step, it is not the pairs.
    agree: whether all ranks say yes. It is asked before a take, so that no rank takes for step n + 1 before the buffer
        knows the version of step n. It is asked after a take, so that no rank steps alone.

    Whatever ends the loop, the last weights have been published and saved when it returns.
    """
    version, waited, worked, saved_at = first_version, 0.0, 0.0, time.monotonic()
    shown = teacher or learner.snapshot
    newest, published = held or shown(version), learner.steps if held is None else -1
    publish(newest)
    saved, redrawn, stopped = learner.steps, 0, False
    while learner.steps < steps:
        agree(True)
        started = time.perf_counter()
        batch = take(learner.steps)
        if not agree(batch is not None) or batch is None:
            break
        taken = time.perf_counter()
        try:
            measured, redrawn = learner.step(batch), 0
        except UnusablePairs as error:
            if redrawn == MOST_SET_ASIDE:
                raise
            redrawn += 1
            set_aside(learner.steps, error.ids)
            continue
        stepped = time.perf_counter()
        if learner.steps % publish_every == 0:
            version, published = version + 1, learner.steps
            publish(newest := shown(version))
        waited, worked = waited + taken - started, worked + stepped - taken
        row = {"step": learner.steps, "version": version, "wait_s": taken - started, "step_s": stepped - taken}
        record("step", {**measured, **row, **staleness(batch)})
        times = {"role": "learner", "index": 0, "busy_s": worked, "waiting_s": waited}
        record("roles", {**times, "counts": {"steps": learner.steps}})
        if time.monotonic() - saved_at >= checkpoint_seconds or learner.steps % checkpoint_every == 0:
            save(version, False, newest if teacher or published != learner.steps else None)
            saved, saved_at = learner.steps, time.monotonic()
        if evaluate_every and (learner.steps - first_step) % evaluate_every == 0:
            evaluate()
        found = guard(measured)
        for finding in found:
            record("guard", {"step": learner.steps, "left": steps - learner.steps, **asdict(finding)})
        if any(finding.stops for finding in found):
            take_back()
            stopped = True
            break
    ends_new = stopped or teacher is not None or published != learner.steps
    if ends_new:
        version += 1
        publish(learner.snapshot(version))
    if ends_new or saved != learner.steps or not learner.steps:
        save(version, stopped, None)
    return learner.steps


def staleness(batch: Batch) -> dict[str, float]:
    """How many policy versions the batch's pairs were behind: mean and maximum."""
    behind = batch.staleness or (0,)
    return {"staleness_mean": sum(behind) / len(behind), "staleness_max": float(max(behind))}


async def in_thread(blocking: Callable[[], Result]) -> Result:
    """The result of a blocking call, awaited. A daemon thread: a call that never ends does not keep Python alive."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Result] = loop.create_future()

    def settle(method: Callable[[Any], None], value: Any) -> None:
        if not result.done():
            method(value)

    def call() -> None:
        try:
            outcome: tuple[Callable[[Any], None], Any] = (result.set_result, blocking())
        except BaseException as error:  # handed to whoever awaits, of whatever kind it is
            outcome = (result.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=call, name="learner", daemon=True).start()
    return await result


async def unless_failed(work: Awaitable[Result], *others: asyncio.Future[Any]) -> Result:
    """The result of `work`, or the failure of whatever fails first."""
    task = asyncio.ensure_future(work)
    pending: set[asyncio.Future[Any]] = {task, *others}
    try:
        while not task.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for finished in done:
                finished.result()
        return task.result()
    finally:
        task.cancel()  # nothing happens if it is done
