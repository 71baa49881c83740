"""What the loop asks of the roles, as handles: `.method.remote(...)` gives something awaitable.

Ray's actor handles are such handles. So are the in-process ones of the tests. A method stands here only if the loop
calls it.
"""

from collections.abc import Awaitable
from typing import Any, Generic, Protocol, TypeVar

from buffers.records import Candidates, CandidateVideos, Preference, Receipt, Request, RoleTimes, Slot

Result = TypeVar("Result", covariant=True)


class Method(Protocol, Generic[Result]):
    """A method of a handle. What one call answers may be an argument of another call: it is passed by reference."""

    def remote(self, *args: Any, **kwargs: Any) -> Awaitable[Result]: ...


class GenerateMethod(Protocol):
    """`generate.options(num_returns=3).remote(request)` gives references: candidates, videos as pixels, how many."""

    def options(self, *, num_returns: int) -> "GenerateCall": ...


class GenerateCall(Protocol):
    def remote(
        self, request: Request
    ) -> tuple[Awaitable[list[Candidates]], Awaitable[list[CandidateVideos]], Awaitable[int]]: ...


class GeneratorHandle(Protocol):
    """`actors.generator.Generator`."""

    generate: GenerateMethod
    load_weights: Method[Receipt]


class RankerHandle(Protocol):
    """`ranker.ranker.Ranker`, or `ranker.judges.function.FunctionRanker`."""

    rank: Method[list[Preference]]
    times: Method[RoleTimes]


class BufferHandle(Protocol):
    """`buffers.replay.ReplayBuffer`."""

    admit: Method[Slot | None]
    add: Method[int]
    finish: Method[int]
    close: Method[None]


class WeightsHandle(Protocol):
    """`buffers.weight_store.WeightStore`."""

    newest: Method[tuple[Any, Receipt] | None]


class RequestStream(Protocol):
    """`actors.streams.PromptStream` or `AnchorStream`: numbered requests without end."""

    def at(self, slot: Slot) -> Request: ...
