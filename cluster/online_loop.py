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

A request whose actor is lost, refuses it or does not answer is made once more, elsewhere. If that fails, too, it is
set aside, and the loop goes on.

The roles are handles: `.method.remote(...)` answers with something awaitable that another call takes as an
argument. Ray's are such handles (the videos travel between the actors and never come here), and so are the
twenty lines of `cluster/handles.py`, on which this same function runs in milliseconds.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from buffers.protocols import BufferHandle, GeneratorHandle, RankerHandle, RequestStream, WeightsHandle
from buffers.records import CandidateVideos, Preference, Request
from cluster.turns import Turns

Result = TypeVar("Result")
Answer = TypeVar("Answer")

NOTHING_LOADED = -1
"""The version of a generator that has not been given any weights yet."""

STOP_SECONDS = 20.0
"""How long a failing loop gives the learner to come to its end before it is left behind."""


class Unanswered(Exception):
    """A request that an actor has not done; its cause says why."""


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
    recover: Callable[[BaseException, Any], bool] = lambda error, actor: False,
    set_aside: Callable[[Request, BaseException], None] = lambda request, error: None,
    deadline: float | None = None,
) -> Result:
    """Generate, judge, keep and learn until `learn` ends, and return what it returned.

    requests: what a slot of the buffer stands for, `conditions_per_request` conditions each.
    learn: takes from `buffer` and publishes to `weights` until it has done its steps or the buffer is closed.
    recover: is told of every error of a call, and of the actor that was asked (None: a buffer). It returns True if an
        actor or a video was lost and what was lost is replaced in `generators` or `rankers`.
    set_aside: is told of every request that two actors have not done, and why. It is not asked for again.
    deadline: seconds within which a generator or ranker has to answer.

    Raises the first failure of any other part, after everything has been closed.
    """
    judges = Turns(rankers)
    versions: dict[GeneratorHandle, int] = {}
    loading = [asyncio.Lock() for _ in generators]

    async def produce(index: int) -> None:
        in_flight: set[asyncio.Future[None]] = set()
        try:
            while True:
                if generators[index] not in versions:
                    await with_newest_weights(index)  # one that finds no room to start holds up no slot
                slot = await buffer.admit.remote(conditions_per_request)
                if slot is None:
                    await asyncio.wait([learning])  # the buffer is closed: the learner comes to its end
                    return
                in_flight.add(asyncio.ensure_future(deliver(index, requests.at(slot))))
                if len(in_flight) >= requests_in_flight:
                    done, in_flight = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.gather(*done)
        finally:
            await _cancel(in_flight)

    async def deliver(index: int, request: Request) -> None:
        try:
            await twice(lambda turn: store(index + turn, request))
        except Unanswered as error:
            set_aside(request, error.__cause__ or error)
            await buffer.finish.remote(request.slot)

    async def store(index: int, request: Request) -> None:
        """One request, from its generator to the buffer."""
        generator = await with_newest_weights(index % len(generators))
        candidates, clips, made = generator.generate.options(num_returns=3).remote(request)
        await answer(generator, made)
        verdicts = await twice(partial(judged, clips)) if request.is_seen else ()
        del clips  # the videos need not stay in memory while the buffer waits for room
        await answer(None, buffer.add.remote(candidates, verdicts, request))

    async def judged(clips: Awaitable[list[CandidateVideos]], turn: int) -> Sequence[Preference]:
        with judges.next() as ranker:
            return await answer(ranker, ranker.rank.remote(clips))

    async def with_newest_weights(index: int) -> GeneratorHandle:
        while True:
            generator = generators[index]
            try:
                async with loading[index], asyncio.timeout(deadline):
                    held = versions.get(generator, NOTHING_LOADED)
                    versions[generator] = await load_newest(generator, weights, held)
                return generator
            except Exception as error:
                if not recover(error, generator):
                    raise

    async def answer(actor: Any, call: Awaitable[Answer]) -> Answer:
        """What a call of an actor, or of the buffer (None), answers; raises Unanswered if it does not."""
        try:
            async with asyncio.timeout(None if actor is None else deadline):
                return await call
        except Exception as error:
            # What a buffer refuses (a full disk) is the run's own failure, not the request's.
            if not recover(error, actor) and actor is None:
                raise
            raise Unanswered from error

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


async def twice(call: Callable[[int], Awaitable[Result]]) -> Result:
    """What a call answers. If it is not answered it is made once more, with the number of the turn: 0, then 1."""
    with contextlib.suppress(Unanswered):
        return await call(0)
    return await call(1)


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
