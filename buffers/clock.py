"""How long a role was busy and how long it waited, for the balance of a run."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from buffers.records import RoleTimes


class RoleClock:
    """A role is busy while at least one caller is being answered, and waits otherwise. Any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers, self._busy, self._waiting, self._since = 0, 0.0, 0.0, time.monotonic()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A caller is being answered until the end of the block."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def times(self, counts: Mapping[str, int]) -> RoleTimes:
        """Seconds since the clock was made, and what the role has counted."""
        self._count(0)
        return RoleTimes(self._busy, self._waiting, dict(counts))

    def _count(self, callers: int) -> None:
        with self._lock:
            now = time.monotonic()
            passed, self._since = now - self._since, now
            if self._callers:
                self._busy += passed
            else:
                self._waiting += passed
            self._callers += callers
