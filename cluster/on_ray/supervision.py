"""Actors that die are replaced, each counted once, at most `cluster.max_failures` times.

Actors do not restart by themselves: a new one has lost its weights, and the loop has to know that it is new.
"""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError


class Supervisor:
    """Watches lists of actors. `recover` puts a new actor in the place of a dead one, in the list that the loop reads.

    on_failure: is told role, index and error of every dead actor.
    """

    def __init__(self, limit: int, *, on_failure: Callable[[str, int, BaseException], None]) -> None:
        self._limit, self._on_failure = limit, on_failure
        self._watched: dict[str, tuple[list[Any], Callable[[int], Any]]] = {}
        self._replaced: set[str] = set()
        self._errors: list[BaseException] = []

    @property
    def count(self) -> int:
        """How many actors have died so far."""
        return len(self._errors)

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

    def recover(self, error: BaseException) -> bool:
        """Whether the error is a dead actor of these lists, which then was replaced (once, however many calls failed).

        Raises RuntimeError from the first failure if there are more than `cluster.max_failures`.
        """
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, ObjectLostError):  # a node died, and a video with it; its actors fail by themselves
            self._add("object", 0, error)
            return True
        # What a constructor raises would be raised again by the next actor: the user has to see it.
        if not isinstance(cause, RayActorError) or cause.actor_init_failed or cause.actor_id is None:
            return False
        for role, (handles, make) in self._watched.items():
            for index, handle in enumerate(handles):
                if handle._actor_id.hex() == cause.actor_id:
                    self._add(role, index, error)
                    self._replaced.add(cause.actor_id)
                    ray.kill(handle)  # it may be out of reach rather than dead
                    handles[index] = make(index)
                    return True
        return cause.actor_id in self._replaced

    def _add(self, role: str, index: int, error: BaseException) -> None:
        self._errors.append(error)
        self._on_failure(role, index, error)
        if self.count > self._limit:
            first = self._errors[0]
            raise RuntimeError(
                f"{self.count} actors were lost, cluster.max_failures = {self._limit}; the first failure was: {first}"
            ) from first
