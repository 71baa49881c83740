"""Whose turn it is, of actors that do the same."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Turns:
    """Of the actors that have started, the one with the fewest open calls. One that is still starting is asked only if
    no other has started: a call would wait minutes in its queue.

    actors: a list in which dead ones are replaced. Each has a method `times`, which it answers once it has started.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors
        self._open: Counter[Any] = Counter()
        self._asked: Counter[Any] = Counter()
        self._started: dict[Any, asyncio.Future[Any]] = {}

    @contextmanager
    def next(self) -> Iterator[Any]:
        """An actor, for one call."""
        for actor in self._actors:
            if actor not in self._started:
                self._started[actor] = asyncio.ensure_future(actor.times.remote())
                self._started[actor].add_done_callback(lambda done: done.cancelled() or done.exception())
        actor = min(self._actors, key=lambda one: (not self._started[one].done(), self._open[one], self._asked[one]))
        self._open[actor] += 1
        self._asked[actor] += 1
        try:
            yield actor
        finally:
            self._open[actor] -= 1
