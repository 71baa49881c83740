"""The board between the driver of a run and its learner group, which stays while the stages change.

driver -- do ------> board -- next --> learner group        the stage that is to be done
driver <------------ board <- end ---- learner group
driver <- question - board <- ask ---- learner group        how good the policy is just now
driver -- answer --> board ---------->

Every call may be made again: a board that takes the place of a dead one is told all of it anew.
"""

import asyncio
from collections.abc import Callable
from typing import Any


class Board:
    """A plain class used as an async actor; one for each learner group."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._stage: list[Any] | None = None
        self._closed = False
        self._asked: tuple[int, Any] | None = None
        self._answers: dict[int, float | None] = {}

    async def do(self, stage: list[Any]) -> None:
        """Waits until a stage has been done; a group that was restarted finds it again.

        stage: a reference to what `train_worker` needs of it, in a list, in which Ray leaves it unresolved: this
        process does not load torch.
        """
        self._stage = stage
        await self._tell()
        await self._until(lambda: self._stage is None)

    async def next(self) -> list[Any] | None:
        """The stage that is to be done, as it was given; waits for one. None: the group is to end."""
        await self._until(lambda: self._stage is not None or self._closed)
        return self._stage

    async def end(self) -> None:
        """The stage has been done."""
        self._stage = None
        await self._tell()

    async def close(self) -> None:
        """No stage follows."""
        self._closed = True
        await self._tell()

    async def ask(self, step: int, snapshot: list[Any]) -> float | None:
        """How good the policy is: larger is better, None if no figure says. Waits for the answer.

        snapshot: a reference to it, in a list, in which Ray leaves it unresolved.
        """
        self._asked = (step, snapshot)
        await self._tell()
        await self._until(lambda: step in self._answers)
        self._asked = None
        return self._answers.pop(step)

    async def question(self) -> tuple[int, list[Any]]:
        """What has been asked and not answered; waits for it."""
        await self._until(lambda: self._asked is not None and self._asked[0] not in self._answers)
        assert self._asked is not None
        return self._asked

    async def answer(self, step: int, value: float | None) -> None:
        """Of a question."""
        self._answers[step] = value
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)
