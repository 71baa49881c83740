"""Actors that are lost and replaced: each counted once, and not without end.

Actors do not restart by themselves: a new one has lost its weights, and the loop has to know that it is new.
"""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError


class Losses:
    """Watches lists of actors. `recover` puts a new actor in a lost one's place, in the list that the loop reads.

    on_loss: told role, index and error of every loss.
    """

    def __init__(self, limit: int, *, on_loss: Callable[[str, int, BaseException], None]) -> None:
        self._limit, self._on_loss = limit, on_loss
        self._watched: list[tuple[str, list[Any], Callable[[int], Any]]] = []
        self._replaced: set[str] = set()
        self._errors: list[BaseException] = []

    @property
    def count(self) -> int:
        """How many actors were lost so far."""
        return len(self._errors)

    def watch(self, role: str, make: Callable[[int], Any], *, count: int) -> list[Any]:
        """A list of `count` new actors; `make(index)` makes one, at first and in place of a lost one."""
        handles = [make(index) for index in range(count)]
        self._watched.append((role, handles, make))
        return handles

    def recover(self, error: BaseException) -> bool:
        """Whether the error is a lost actor of these lists, which then was replaced (once, however many calls failed).

        Raises RuntimeError from the first loss when there are more than `cluster.max_losses`.
        """
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, ObjectLostError):  # a node went, and a video with it; its actors are missed by themselves
            self._add("object", 0, error)
            return True
        # What a constructor raises would be raised again by the next actor: the user has to see it.
        if not isinstance(cause, RayActorError) or cause.actor_init_failed or cause.actor_id is None:
            return False
        for role, handles, make in self._watched:
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
        self._on_loss(role, index, error)
        if self.count > self._limit:
            first = self._errors[0]
            raise RuntimeError(
                f"{self.count} actors were lost, cluster.max_losses = {self._limit}; the first loss was: {first}"
            ) from first
