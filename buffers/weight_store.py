"""The newest adapter, published whole or not at all, for generators to fetch when they come by.

A long-lived actor puts every snapshot into the object store *itself*: an object dies with the process that put it
there, and learner workers die at every restart of their group. One copy per node, read without copying.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from buffers.records import Receipt, Snapshot

KEPT = 2
"""How many versions stay in the object store: the newest, and the one that a generator may be loading just now."""


class WeightStore:
    """A plain class used as an async actor; `put` is `ray.put` there and the identity in tests.

    of_before: the newest weights that are known if this store takes the place of one that has died, else None.

    Example: version = await store.publish(snapshot); reference, published = await store.newest(after=-1)
    """

    def __init__(self, put: Callable[[Snapshot], Any], of_before: Callable[[], Snapshot | None] = lambda: None) -> None:
        self._put = put
        self._kept: list[tuple[Any, Receipt]] = []
        self._changed = asyncio.Condition()
        if (snapshot := of_before()) is not None:
            self._keep(snapshot)

    async def publish(self, snapshot: Snapshot) -> int:
        """Make this the newest snapshot and return its version.

        Raises ValueError if the version is not above the newest one's, or if there are no parameters (an adapter that
        binds to nothing would be "in sync" with everything).
        """
        newest = self.version()
        if snapshot.version <= newest:
            raise ValueError(f"weights version {snapshot.version} cannot follow version {newest}: versions only rise")
        if not snapshot.adapter:
            raise ValueError(f"weights version {snapshot.version} is without LoRA parameters")
        async with self._changed:
            self._keep(snapshot)
            self._changed.notify_all()
        return snapshot.version

    async def newest(self, after: int, *, wait: bool = False) -> tuple[Any, Receipt] | None:
        """The newest snapshot's reference and what a receiver must answer, if its version is above `after`.

        Otherwise None, or with `wait` the first one that is published. The reference stands inside a tuple, where Ray
        leaves it unresolved.
        """
        async with self._changed:
            if wait:
                await self._changed.wait_for(lambda: self.version() > after)
            return self._kept[-1] if self.version() > after else None

    def _keep(self, snapshot: Snapshot) -> None:
        published = Receipt(snapshot.version, len(snapshot.adapter), snapshot.checksum)
        self._kept = [*self._kept, (self._put(snapshot), published)][-KEPT:]

    def version(self) -> int:
        """The newest version, or -1 before the first one."""
        return self._kept[-1][1].version if self._kept else -1
