"""A handle that behaves like Ray's, in this process: the loop cannot tell them apart. For simulation and tests."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from typing import Any


class _Handle:
    """`handle.method.remote(...)` answers with an awaitable; awaitable arguments are resolved first, as Ray does."""

    def __init__(self, target: Any, *, ordered: bool = False) -> None:
        self._target = target
        self._turn = asyncio.Lock() if ordered else None  # one call after another, as in an actor that is not async

    def __getattr__(self, name: str) -> "_Method":
        return _Method(getattr(self._target, name), self._turn)


def InProcessHandle(target: Any, *, ordered: bool = False) -> Any:
    """A handle of `target`. Typed as Ray types its own: anything may be asked of it."""
    return _Handle(target, ordered=ordered)


class _Method:
    def __init__(self, method: Callable[..., Any], turn: asyncio.Lock | None, num_returns: int = 1) -> None:
        self._method, self._turn, self._num_returns = method, turn, num_returns

    def options(self, *, num_returns: int) -> "_Method":
        return _Method(self._method, self._turn, num_returns)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        result = _quiet(self._call(*args, **kwargs))  # a task may be awaited many times
        if self._num_returns == 1:
            return result
        return [_quiet(_item(result, index)) for index in range(self._num_returns)]

    async def _call(self, *args: Any, **kwargs: Any) -> Any:
        async with self._turn or contextlib.nullcontext():
            return await self._answer(*args, **kwargs)

    async def _answer(self, *args: Any, **kwargs: Any) -> Any:
        resolved = [await arg if inspect.isawaitable(arg) else arg for arg in args]
        await asyncio.sleep(0)  # another process never answers within the same step of the event loop
        result = self._method(*resolved, **kwargs)
        return await result if inspect.isawaitable(result) else result


async def _item(result: "asyncio.Future[Any]", index: int) -> Any:
    return (await result)[index]


def _quiet(coroutine: Any) -> "asyncio.Task[Any]":
    """A task whose error nobody has to look at, like a Ray reference's."""
    task = asyncio.ensure_future(coroutine)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
