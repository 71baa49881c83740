"""Who has died is replaced, and what was lost is counted: of each role so many times within an hour, no more.

Generators and rankers do not restart by themselves: a new one has lost its weights, and the loop has to know that it is
new. Small actors do.
"""

import asyncio
import contextlib
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import state
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.state import get_log

from buffers.records import Request

HOUR = 3600.0

NODE_SECONDS = 60.0
"""What a node takes with it within so many seconds, actors and videos, counts once."""

OF_A_DEVICE = re.compile(r"CUDA|CUBLAS|CUDNN|NCCL|NVML|Xid", re.IGNORECASE)
"""An error after which a process cannot use its GPU any more, or has filled it: another process can."""

OF_A_PEER = re.compile(r"gloo|connection (closed|reset)|broken pipe|socket", re.IGNORECASE)
"""What a learner worker says if another one has died: it may be heard before the death is."""

RAY_SECONDS = 5.0
"""How often Ray is asked which small actors it has made anew, and which actors wait for room."""

PENDING_SECONDS = 120.0
"""After these an actor that has not started is named."""

LOG_LINES = 2000

OF_A_NODE = re.compile(r"node (has died|was terminated|is dead|failure)|node[^.]{0,40}(died|dead|terminated)")


class Supervisor:
    """Watches lists of actors. `recover` puts a new actor in the place of a lost one, in the list that the loop reads.

    limit: of the losses of a role within an hour. on_failure: is told role, index and error of everything that was
    lost, and how many that were so far. on_late: is told which actors have not started for a while, whenever they are
    others.
    """

    def __init__(
        self,
        limit: int,
        *,
        on_failure: Callable[[str, int, BaseException, int], None],
        on_late: Callable[[list[str]], None] = lambda names: None,
    ) -> None:
        self._limit, self._on_failure, self._on_late = limit, on_failure, on_late
        self._watched: dict[str, tuple[list[Any], Callable[[int], Any]]] = {}
        self._replaced: set[str] = set()
        self._losses: dict[str, list[tuple[float, BaseException]]] = defaultdict(list)
        self.count = 0

    def watch(self, role: str, make: Callable[[int], Any], *, count: int) -> list[Any]:
        """A list of `count` new actors; `make(index)` makes one, at first and in place of a dead one.

        The list of a role is the same object ever after: those who read it see what is started and stopped.
        """
        handles, _ = self._watched.get(role, ([], make))
        self._watched[role] = handles, make
        handles.extend(make(index) for index in range(count))
        return handles

    def stop(self, role: str) -> None:
        """Ends the role's actors and gives their resources back."""
        handles, _ = self._watched.get(role, ([], None))
        while handles:
            ray.kill(handles.pop())

    def recover(self, error: BaseException, actor: Any = None) -> bool:
        """Whether the error is a loss that is made good: an actor of these lists that has died, that cannot use its
        device any more or does not answer in time, and was replaced (once, however many calls failed); or a video that
        a dead node had.

        actor: the one that was asked. Raises RuntimeError from the first failure if a role fails too often.
        """
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(error, TimeoutError):
            error = TimeoutError("no answer within cluster.deadline_minutes: it hangs, or has not started")
        if isinstance(cause, ObjectLostError):
            self.lost("node", 0, error)
            return True
        broken = isinstance(cause, TimeoutError) or bool(OF_A_DEVICE.search(str(cause)))
        asked = actor._actor_id.hex() if actor is not None else None
        lost = asked if broken else None
        if isinstance(cause, RayActorError) and (broken or not cause.actor_init_failed):
            lost = cause.actor_id or asked  # it may be another one, whose video was on its way
        # What a constructor raises would be raised again by the next actor: the user has to see it.
        if lost is None:
            return False
        for role, (handles, make) in self._watched.items():
            for index, handle in enumerate(handles):
                if handle._actor_id.hex() == lost:
                    self.lost(role, index, error)
                    self._replaced.add(lost)
                    ray.kill(handle)  # it may be out of reach rather than dead
                    handles[index] = make(index)
                    return True
        return lost in self._replaced

    def set_aside(self, request: Request, error: BaseException) -> None:
        """A request that two actors have not done. Raises as `recover`."""
        ids = ", ".join(condition.id for condition in request.conditions)
        reason = RuntimeError(f"request {request.slot}, conditions {ids}: {error}")
        reason.__cause__ = error
        self.lost("request", 0, reason)

    async def watch_ray(self, small: Mapping[str, str]) -> None:
        """Until it is cancelled: that Ray has made a small actor (id -> name) anew is a loss; an actor of these lists
        that does not start is named. Raises as `lost`."""
        counted, since, told = Counter[str](), dict[str, float](), list[str]()
        while True:
            await asyncio.sleep(RAY_SECONDS)
            try:
                restarts, pending = await asyncio.to_thread(_restarts_and_pending, list(small))
            except Exception:  # Ray's own store may be away for a while
                continue
            for actor, count in restarts.items():
                for _ in range(count - counted[actor]):
                    counted[actor] += 1
                    self.lost(small[actor].partition("-")[0], 0, RuntimeError(f"{small[actor]} died; Ray made it anew"))
            now, names = time.monotonic(), dict[str, str]()
            for role, (handles, _) in self._watched.items():
                names |= {handle._actor_id.hex(): f"{role} {index}" for index, handle in enumerate(handles)}
            since = {actor: since.get(actor, now) for actor in names if actor in pending}
            late = [names[actor] for actor, began in since.items() if now - began > PENDING_SECONDS]
            if late != told:
                self._on_late(told := late)

    def lost(self, role: str, index: int, error: BaseException) -> None:
        """Counts a loss. Raises RuntimeError from the first one within the hour if that were too many."""
        now = time.monotonic()
        if OF_A_NODE.search(str(error)) or role == "node":
            role, index = "node", 0
            if self._losses[role] and now - self._losses[role][-1][0] < NODE_SECONDS:
                return
        losses = self._losses[role] = [each for each in self._losses[role] if now - each[0] < HOUR]
        losses.append((now, error))
        self.count += 1
        self._on_failure(role, index, error, self.count)
        if len(losses) > self._limit:
            first = losses[0][1]
            raise RuntimeError(
                f"{len(losses)} losses of the role {role} within an hour, cluster.max_failures = {self._limit}; the "
                f"first one: {first}"
            ) from first


def group_was_lost(error: BaseException) -> bool:
    """Whether a learner group ended because a process, its device or a connection did; not of an error of its own."""
    if not isinstance(error, WorkerGroupError):
        return isinstance(error, TrainingFailedError | RayActorError)
    return any(
        not isinstance(each, UserExceptionWithTraceback) or OF_A_DEVICE.search(str(each)) or OF_A_PEER.search(str(each))
        for each in error.worker_failures.values()
    )


def _restarts_and_pending(small: list[str]) -> tuple[dict[str, int], set[str]]:
    """How often each of these actors was made anew, and who of the driver's job has not started. Ids."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    pending = {*state.actors(None, job, "PENDING_CREATION"), *state.actors(None, job, "DEPENDENCIES_UNREADY")}
    return {actor: state.actors(actor).get("NumRestarts", 0) for actor in small}, pending


def keep_log(actor: str, file: Path) -> None:
    """The last lines that a dead actor wrote, as a file, if the cluster's dashboard can be asked for them."""
    with contextlib.suppress(Exception):  # it is a help to whoever looks, no more
        file.write_text("".join(get_log(actor_id=actor, tail=LOG_LINES, timeout=60)), encoding="utf-8")
