"""The stages of a run, one after the other: who works in a stage, and where its pairs come from.

    kind            pairs come from                                    works beside the learner
    -------------   ------------------------------------------------   ------------------------
    online          the policy's own videos, judged                    generators, rankers
    half_online     the policy's own videos against people's anchors   generators
    offline         people's own pairs (`buffer.offline`)              nobody
    distill         the teacher's own videos, nobody prefers one       generators
    distill_aware   people's own pairs                                 nobody
    direct_align    the policy's own videos, nobody prefers one        generators

`buffer.mix` of a stage may add other sources; who works follows from the mix. The loss is Diffusion-APO's; in
`distill` the distance to the guided teacher; in `direct_align` a reward of recovered videos. Reference and teacher are
the adapter that the stage starts from. What a stage that generates does step by step is `online_loop.py`; what the
learner does is `learn_steps.py`. Actors and learner group stay from stage to stage if the next one has them, too
(`on_ray/crew.py`).
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from actors.streams import AnchorStream, PromptStream
from buffers.figures import figures_of
from buffers.records import Condition, Request, Slot
from buffers.store.pair_store import PairStore
from cluster import online_loop, run_state
from cluster.evaluation import compare, evaluate, evaluation_requests, is_judged, videos_made
from cluster.learn_steps import unless_failed
from cluster.monitor.progress import Progress
from cluster.monitor.rows import Row, evaluation_rows, read_metrics, without_stamp
from cluster.monitor.watch import record_verdicts, watch
from cluster.run_folder import RunFolder
from cluster.run_state import RunState
from configs.schema import RunConfig

Result = TypeVar("Result")

CLOSE_SECONDS = 10.0
"""How long the metrics may take to be written out at the end, and the learner group to end."""

CONDITIONS_PER_STAGE = 2**22
"""Every stage draws its conditions from a part of the prompt stream of its own: no noise seed comes twice in a run."""


@dataclass
class Run:
    """What the stages of one run share. `crew`: the actors (`on_ray/crew.py`); `vae_spatial`: pixels of a latent."""

    config: RunConfig
    folder: RunFolder
    crew: Any
    progress: Progress
    training: Sequence[Condition]
    held_out: Sequence[Condition]
    vae_spatial: int

    def waiting_for(self, actors: Sequence[str]) -> None:
        """Shown until there are none; the first few by name."""
        more = f" and {len(actors) - 3:,} more" if len(actors) > 3 else ""
        self.progress.update(waiting_for=", ".join(actors[:3]) + more if actors else None)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Shown while it lasts. Its seconds are recorded when it ends, well or not."""
        self.progress.phase(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.crew.metrics.record.remote("phase", {"name": name, "seconds": time.perf_counter() - started})


async def run_stages(run: Run) -> None:
    """Evaluate, run every stage that is not done yet, and evaluate again after each."""
    state = run_state.newest(run.folder.checkpoints)
    measured = evaluation_rows(read_metrics(run.folder.metrics_file))
    watching = asyncio.ensure_future(watch(run.crew, run.progress))
    try:
        left = _left(run.config, state)
        before = None if "before" in measured else _evaluate(run, run.config.first_stage - 1)
        if state is not None and state.position.stage < left.start:
            await _end_stage(run, state, measured)  # a run that was stopped between two stages
        for number in left:
            state = await run_stage(number, state, run, meanwhile=before)
            before = None
            if number == run.config.numbers[-1]:
                await run.crew.dismiss_learners()
            await _end_stage(run, state, {})
    finally:
        watching.cancel()
        with contextlib.suppress(Exception):  # whatever it failed of is being raised already
            await asyncio.wait_for(run.crew.dismiss_learners(), CLOSE_SECONDS)
        with contextlib.suppress(Exception):  # the rows are on disk already; the tracker may be late
            await asyncio.wait_for(run.crew.metrics.close.remote(), CLOSE_SECONDS)


async def run_stage(
    number: int, state: RunState | None, run: Run, *, meanwhile: Awaitable[None] | None = None
) -> RunState:
    """One stage, from the newest state of the run to the stage's end; returns the state it ends with.

    state: if it is of an earlier stage, its adapter is the policy that this one starts from and, frozen, the reference.
        If it is of this stage, the stage goes on from there. The learner reads it from disk
        (`on_ray/learner_worker.py`).
    meanwhile: awaited while learner and rankers start.
    """
    crew, config = run.crew, run.config.of_stage(number)
    stage = run.config.stages[number]
    if meanwhile is not None and not crew.has_room_for_evaluation(config):
        await meanwhile
        meanwhile = None
    await crew.begin_stage(number)
    await _check_buffer(run, number, state)
    learning = asyncio.ensure_future(crew.learn(number))
    ready = asyncio.ensure_future(crew.ready(run.waiting_for))
    questions = asyncio.ensure_future(_answer_questions(run, config, number))
    try:
        if meanwhile is not None:
            await unless_failed(meanwhile, ready, learning)
        with run.phase(f"{stage.kind}: start"):
            await unless_failed(ready, learning)
        with run.phase(stage.kind):
            if not config.generates:
                await unless_failed(learning, questions)
            else:
                work = online_loop.run(
                    requests=Requests(run, config, number),
                    conditions_per_request=config.generator.conditions_per_request,
                    generators=crew.generators,
                    rankers=crew.rankers,
                    buffer=crew.buffer,
                    weights=crew.weights,
                    learn=lambda: learning,
                    requests_in_flight=config.generator.requests_in_flight,
                    recover=crew.supervisor.recover,
                    set_aside=crew.supervisor.set_aside,
                    deadline=crew.deadline,
                )
                await unless_failed(work, questions)
        await record_verdicts(crew)
    finally:
        ready.cancel()
        questions.cancel()
        await _stop_learning(run, learning)
    ended = run_state.newest(run.folder.checkpoints)
    assert ended is not None, "learn_steps saves a state before it returns"
    return ended


async def _end_stage(run: Run, state: RunState, measured: Mapping[str, Row]) -> None:
    """Keep what the stage has learned, and evaluate it, unless that was `measured` before.

    It has another name then if it was the last stage of a run that has grown since.
    """
    number, folder = state.position.stage, run.folder
    phase = run.config.phase_after(number)
    of_stage = folder.adapter_of(number, run.config.stages[number].kind)
    for place in [of_stage] * (len(run.config.stages) > 1) + [folder.adapter] * (phase == "after"):
        run_state.keep_adapter(folder.checkpoints, place)
    same = next((row for row in measured.values() if row.get("step") == state.step), None)
    if same is None:
        await _evaluate(run, number, state)
    elif same["phase"] != phase:  # its videos' files will be those of the new last stage
        await run.crew.metrics.record.remote("evaluation", {**without_stamp(same), "phase": phase, "kept": []})


class Requests:
    """What a slot of the buffer stands for: the streams of a stage, by source. No noise seed comes twice in a run."""

    def __init__(self, run: Run, config: RunConfig, number: int) -> None:
        first, seed, per_request = number * CONDITIONS_PER_STAGE, config.seed, config.generator.conditions_per_request
        self._prompts = PromptStream(run.training, per_request=per_request, seed=seed, first=first)
        self._anchors: AnchorStream | None = None
        if config.buffer.mix.half_online and config.buffer.anchors:
            store = PairStore(config.buffer.anchors, write=False)
            self._anchors = AnchorStream(
                store,
                positive_share=config.buffer.positive_share,
                per_request=per_request,
                seed=seed,
                first=first + CONDITIONS_PER_STAGE // 2,
                spatial=run.vae_spatial if config.sampling.pixels is not None else None,
            )
            store.close()

    def at(self, slot: Slot) -> Request:
        stream = self._anchors if slot.source == "half-online" else self._prompts
        assert stream is not None, "the buffer asks only for sources of its mix"
        return stream.at(slot)


def _left(config: RunConfig, state: RunState | None) -> range:
    """Numbers of the stages that are not done yet."""
    if state is None:
        return config.numbers
    here = state.position
    done = here.stopped or state.step - here.first_step >= config.stages[here.stage].steps
    return range(here.stage + done, config.numbers.stop)


async def _check_buffer(run: Run, number: int, state: RunState | None) -> None:
    """Raises ValueError if the buffer's folder lacks what the state that is gone on with knows to be in it."""
    if state is None or state.position.stage != number:
        return
    here: dict[str, int] = await run.crew.buffer.cursor.remote()
    for what, count in state.position.buffer.items():
        if here[what] < count:
            raise ValueError(
                f"{run.folder.buffer}: is behind the run's state ({what}: {here[what]}, the state says {count}): files "
                "of it were lost or put back. Put the newest ones there, or start anew with another out=FOLDER"
            )


async def _evaluate(run: Run, number: int, state: RunState | None = None) -> None:
    """Make the videos of one phase, measure or compare them, and record the figures. Makes none that nobody looks at.

    number: of the stage that has ended; the one before the first if none has. state: whose adapter makes the videos;
    None if the generators hold the run's first one.
    """
    crew, videos = run.crew, videos_made(run.config)
    phase = run.config.phase_after(number) if state is not None else "before"
    named = {"phase": phase, "step": state.step if state is not None else 0}
    if not videos:
        empty = {"videos": 0, "kept": [], "about": {}, "measured": {}}
        await crew.metrics.record.remote("evaluation", {**named, **empty})
        return
    await crew.prepare_evaluation()
    policy = run_state.snapshot(state) if state is not None else None
    snapshot, version = policy and crew.shared(policy), policy.version if policy else 0
    with run.phase(f"evaluation {phase}"):
        summary = await _shown(run, number, phase, videos, snapshot, version=version)
    await crew.metrics.record.remote("evaluation", {**named, **summary})


async def _shown(
    run: Run, number: int, phase: str, videos: int, snapshot: Any, *, version: int | None = None, keep: bool = True
) -> dict[str, Any]:
    """The evaluator's summary of the first `videos` videos of an evaluation, measured or compared; `version` and `keep`
    as in `evaluate`."""
    config, crew = run.config.sampled_after(number), run.crew
    at_once, seed = config.generator.conditions_per_request, config.evaluation.seed
    summary = await evaluate(
        phase,
        evaluation_requests(run.held_out, videos=videos, seed=seed, conditions_per_request=at_once),
        generators=crew.generators,
        evaluator=crew.evaluator,
        sampling=config.sampling,
        snapshot=snapshot,
        version=version,
        keep=keep,
        requests_in_flight=config.generator.requests_in_flight,
        measured=lambda done: run.progress.update(measured=f"{done} of {videos}"),
        recover=crew.supervisor.recover,
        deadline=crew.deadline,
    )
    run.progress.update(measured=None)
    if snapshot is not None and is_judged(config):
        crew.start_rankers()
        summary |= await compare(
            phase,
            evaluator=crew.evaluator,
            rankers=crew.rankers,
            config=config.ranker,
            videos=videos,
            at_once=2 * at_once,
            recover=crew.supervisor.recover,
            deadline=crew.deadline,
        )
    return summary


async def _answer_questions(run: Run, config: RunConfig, number: int) -> None:
    """Inside a stage, whenever the learner asks: how good its policy is, on the first few videos of an evaluation.

    The answer is the figure `evaluation.best`, with its sign changed if lower is better. Runs until it is cancelled.
    """
    crew, section = run.crew, config.evaluation
    while True:
        step, (snapshot,) = await crew.board.question.remote()
        phase = f"stage-{number + 1}-{config.stages[0].kind}-step-{step}"
        keep = is_judged(run.config)  # the judge compares files
        summary = await _shown(run, number, phase, section.every_videos, snapshot, keep=keep)
        await crew.metrics.record.remote("glance", {"phase": phase, "stage": number, "step": step, **summary})
        value = None
        if section.best:
            figure = figures_of(summary["measured"], summary["about"])[section.best]
            value = figure["value"] if figure["better"] == "higher" else -figure["value"]
        await crew.board.answer.remote(step, value)


async def _stop_learning(run: Run, learning: asyncio.Future[Any]) -> None:
    """Let the learner save what it has learned. If it has not made a step, there is nothing to wait for."""
    if learning.done():
        return
    with contextlib.suppress(Exception):  # lost actors cannot be asked; something else is being raised then
        await run.crew.buffer.close.remote()
        if await run.crew.metrics.latest.remote("step") is not None:
            await asyncio.wait([learning], timeout=online_loop.STOP_SECONDS)
    learning.cancel()
