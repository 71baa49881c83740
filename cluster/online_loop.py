"""The page: one online stage, from prompt to new weights and round again.

    request -> generator -> candidates, clips -> ranker -> verdicts -> buffer -> batch -> learner -> snapshot
       |           ^                                                     |                              |
       |           +---------------------------- weight store <----------|------------------------------+
       +<---- slot: the pairs of which source are missing ---------------+

No judge is asked about a request whose pairs are anchors' (half-online) or that nobody prefers (distillation).

Who waits for whom, and where:

    who         waits for                                     where
    ---------   -------------------------------------------   ---------------------------------------------------
    generator   its requests in flight (being judged/stored)  `requests_in_flight`, in the producer below
    generator   a use for the next request's pairs            `ReplayBuffer.admit` (a run that goes on, or on-policy)
    ranker      clips                                         the call's own argument: a reference, not a video
    buffer.add  room: pairs waiting to be learned from        `ReplayBuffer.add` (this is the pace of generation)
    learner     enough usable pairs                           `ReplayBuffer.take` (this is the pace of learning)
    generator   the first weights, and nothing after that     `WeightStore.newest(wait=True)`; newer ones are taken
                                                              between requests, never inside a denoising run
    this loop   the learner's end, or the first failure       `run`

The roles are handles: `.method.remote(...)` answers with something awaitable that another call takes as an
argument. Ray's are such handles (the videos travel between the actors and never come here), and so are the
twenty lines of `tests/cluster/handles.py`, on which this same function runs in milliseconds.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from buffers.protocols import BufferHandle, GeneratorHandle, RankerHandle, RequestStream, WeightsHandle
from buffers.records import CandidateVideos, Preference, Request

Result = TypeVar("Result")

NOTHING_LOADED = -1
"""The version of a generator that has not been given any weights yet."""

STOP_SECONDS = 20.0
"""How long a failing loop gives the learner to come to its end before it is left behind."""


async def run(
    *,
    requests: RequestStream,
    conditions_per_request: int,
    generators: Sequence[GeneratorHandle],
    rankers: Sequence[RankerHandle],
    buffer: BufferHandle,
    weights: WeightsHandle,
    learn: Callable[[], Awaitable[Result]],
    requests_in_flight: int,
    recover: Callable[[BaseException], bool] = lambda error: False,
) -> Result:
    """Generate, judge, keep and learn until `learn` ends, and return what it returned.

    requests: what a slot of the buffer stands for, `conditions_per_request` conditions each.
    learn: takes from `buffer` and publishes to `weights` until it has done its steps or the buffer is closed.
    recover: is asked about every error of a producer. It returns True if the error was a dead actor that has been
        replaced in `generators` or `rankers`. A request of a dead generator is lost. A request of a dead ranker is sent
        once more, to the new one.

    Raises the first failure of any part, after everything has been closed.
    """
    ranker_turns = itertools.count()

    async def produce(index: int) -> None:
        held, version = generators[index], NOTHING_LOADED
        in_flight: set[asyncio.Future[None]] = set()
        try:
            while True:
                try:
                    if generators[index] is not held:  # a replacement: it holds no weights
                        held, version = generators[index], NOTHING_LOADED
                    slot = await buffer.admit.remote(conditions_per_request)
                    if slot is None:
                        await asyncio.wait([learning])  # the buffer is closed: the learner comes to its end
                        return
                    request = requests.at(slot)
                    async with forgotten_if_lost(request):
                        version = await load_newest(held, weights, version)
                    in_flight.add(asyncio.ensure_future(deliver(held, request)))
                    if len(in_flight) >= requests_in_flight:
                        done, in_flight = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                        await asyncio.gather(*done)
                except Exception as error:
                    if not recover(error):
                        raise
        finally:
            await _cancel(in_flight)

    async def deliver(generator: GeneratorHandle, request: Request) -> None:
        async with forgotten_if_lost(request):
            candidates, clips = generator.generate.options(num_returns=2).remote(request)
            verdicts = await judged(clips) if request.is_seen else ()
            del clips  # the videos need not stay in memory while the buffer waits for room
            await buffer.add.remote(candidates, verdicts, request)

    async def judged(clips: Awaitable[list[CandidateVideos]]) -> Sequence[Preference]:
        try:
            return await next_ranker().rank.remote(clips)
        except Exception as error:
            if not recover(error):
                raise
            return await next_ranker().rank.remote(clips)  # the videos are still there: asked again, once

    @contextlib.asynccontextmanager
    async def forgotten_if_lost(request: Request) -> AsyncIterator[None]:
        try:
            yield
        except Exception:
            with contextlib.suppress(Exception):  # a buffer that is lost, too, counts nothing
                await buffer.forget.remote(request.slot)
            raise

    def next_ranker() -> RankerHandle:
        return rankers[next(ranker_turns) % len(rankers)]

    learning = asyncio.ensure_future(learn())
    producers = [asyncio.ensure_future(produce(index)) for index in range(len(generators))]
    try:
        # A producer never ends before the learner: what is done first is the learner's end, or the first failure.
        done, _ = await asyncio.wait([learning, *producers], return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=lambda task: task is learning):
            task.result()
        return learning.result()
    finally:
        await _cancel(producers)  # before the buffer is closed: a closed one has room for everything
        with contextlib.suppress(Exception):  # a buffer that is lost is closed; the failure that matters is on its way
            await buffer.close.remote()
        await asyncio.wait([learning], timeout=STOP_SECONDS)
        await _cancel([learning])


async def load_newest(generator: GeneratorHandle, weights: WeightsHandle, version: int) -> int:
    """Give the generator the newest weights if it holds older ones; return the version it holds then.

    If it holds none, wait until there are some. Fails closed: raises ValueError if the generator's receipt (version,
    parameters per expert, checksum) is not what was published.
    """
    newest = await weights.newest.remote(version, wait=version == NOTHING_LOADED)
    if newest is None:
        return version
    snapshot, published = newest
    receipt = await generator.load_weights.remote(snapshot)
    if receipt != published:
        raise ValueError(f"a generator does not hold the weights it was sent: sent {published}, it holds {receipt}")
    return published.version


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel the tasks that still run and wait for their end. Their errors were seen already, or come of this."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
