"""`apogee simulate`: the online loop of a config in virtual time, on as many GPUs as you like, before one is paid for.

It is `online_loop.run` itself, with the real buffer, weight store and prompt stream. Generators, rankers and learner
are told how many seconds their work takes. The clock jumps from one event to the next.
"""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from actors.streams import PromptStream
from buffers import records
from buffers.replay import ReplayBuffer
from buffers.weight_store import WeightStore
from cluster import online_loop
from cluster.checks.out_folder import check_new
from cluster.commands.check import TEMPLATES
from cluster.handles import InProcessHandle
from cluster.learn_steps import staleness
from cluster.monitor.balance import loop_window, role_figures, step_seconds, suggestion
from cluster.monitor.rows import of_kind, read_metrics
from cluster.report.plots import pace_over_gpus
from cluster.report.summary import read_config
from cluster.run_folder import RunFolder
from configs.load import load_as
from configs.schema import RunConfig
from configs.sections import Quantity, Section, Share
from policy.bundle import BundleFacts, check_bundle
from policy.flops import forward_flops

STEPS = 24
"""Of a simulation; the first third fills buffer and queues and is not counted."""

TOO_OLD = (
    "Pairs grow too old before they are learned from: raise learner.pairs_per_step, learner.publish_every or "
    "buffer.max_staleness, or have fewer generators."
)

CONDITIONS = [records.Condition(str(number), str(number), "general") for number in range(64)]
NOTHING = records.TensorData("uint8", (1,), np.zeros(1, np.uint8))


class Costs(Section):
    """Seconds that work takes on the devices of one actor or worker."""

    generate: Quantity
    """To make the two videos of a condition."""
    judge: Quantity = 1e-6
    """To judge a pair."""
    learn: Quantity
    """To learn from a pair, in one learner worker."""
    kept: Share = 1.0
    """Share of the pairs that the judge does not drop."""


def costs_of_run(place: Path) -> Costs:
    """What the work of a run has taken, per actor. Raises ValueError if the run has not learned yet."""
    run = RunFolder(place)
    config, rows = read_config(run), read_metrics(run.metrics_file)
    start, end = loop_window(rows)
    counted, steps = of_kind(rows, "verdicts"), [work for _, _, work in step_seconds(rows)]
    busy: Counter[str] = Counter()
    for each in role_figures(rows):
        busy[each["role"]] += each["busy_s"]
    videos: dict[int, list[int]] = {}
    for row in of_kind(rows, "roles"):
        if row["role"] == "generator" and start <= row["time"] <= end:
            videos.setdefault(row["index"], []).append(row["counts"].get("videos", 0))
    made = sum(max(seen) - min(seen) for seen in videos.values()) / 2
    if not (steps and counted and made):
        raise ValueError(
            f"{place}: the run has made no pair or no step yet, or its loop was shorter than the half minute in which "
            "its actors are asked twice; there is nothing to go by"
        )
    judged, added = counted[-1].get("judged", 0), counted[-1]["added"]
    learner = config["learner"] | config["stages"][0].get("learner", {})
    return Costs(
        generate=busy["generator"] / made,
        judge=max(1e-6, busy["ranker"] / max(1, judged)),
        learn=float(np.median(steps)) * learner["num_workers"] / learner["pairs_per_step"],
        kept=min(1.0, added / judged) if judged else 1.0,
    )


def costs_of_flops(config: RunConfig, facts: BundleFacts, flops: float) -> Costs:
    """Computed for the first stage, on devices that reach so many floating point operations per second.

    Judging is not in it.
    """
    stage = config.of_stage(config.first_stage)
    sampling, learner = stage.sampling, stage.learner
    shape = facts.latent_shape(sampling.num_frames, sampling.height, sampling.width)
    one = forward_flops(facts, facts.tokens(shape), config.model.max_text_tokens) / flops
    # Policy and reference forward, and backward, which computes the forward pass again if it is checkpointed.
    passes = 2 * (4 + learner.gradient_checkpointing) * learner.timesteps.count
    return Costs(generate=2 * sampling.passes * one, learn=passes * one)


@dataclass(frozen=True)
class Split:
    """How many actors each role has."""

    generators: int
    rankers: int
    workers: int


@dataclass(frozen=True)
class Simulated:
    """`pairs_an_hour`: learned from. Shares of time that a role works; `staleness`: mean, in policy versions.

    `too_old`: share of the judged pairs that grew too old before they were learned from.
    """

    gpus: float
    split: Split
    pairs_an_hour: float
    generators_busy: float
    rankers_busy: float
    learner_busy: float
    staleness: float
    too_old: float
    gpu_hours: float
    advice: str


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as nothing else is to be done."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """At once: no virtual time passes in a thread."""
        done = self.create_future()
        done.set_result(func(*args))
        return done

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # pyright: ignore[reportAttributeAccessIssue]
            self._now = max(self._now, self._scheduled[0]._when)  # pyright: ignore[reportAttributeAccessIssue]
        super()._run_once()  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(eq=False)
class _Worker:
    """Works for so many seconds at a time."""

    costs: Costs
    busy: float = 0.0

    async def work(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.busy += seconds

    def times(self) -> records.RoleTimes:
        return records.RoleTimes(self.busy)


@dataclass(eq=False)
class SimulatedGenerator(_Worker):
    version: int = 0

    def load_weights(self, snapshot: records.Snapshot) -> records.Receipt:
        self.version = snapshot.version
        return records.Receipt(snapshot.version, 1, snapshot.checksum)

    async def generate(self, request: records.Request) -> tuple[list[Any], list[Any], int]:
        await self.work(self.costs.generate * len(request.conditions))
        candidates, clips = [], []
        for each, (one, two) in zip(request.conditions, request.seeds, strict=True):
            conditioning = records.EncodedCondition(each, NOTHING)
            candidates.append(records.Candidates(each, conditioning, (one, two), NOTHING, NOTHING, self.version))
            clips.append(records.CandidateVideos(each, NOTHING.data, NOTHING.data, 1.0, self.version))
        return candidates, clips, len(clips)


@dataclass(eq=False)
class SimulatedRanker(_Worker):
    kept: float = 0.0

    async def rank(self, clips: Sequence[records.CandidateVideos]) -> list[records.Scores]:
        await self.work(self.costs.judge * len(clips))
        return [records.Scores(1.0, 0.0, None if self._keeps() else "low_confidence") for _ in clips]

    def _keeps(self) -> bool:
        """Evenly: of every ten pairs of 0.7, seven."""
        self.kept += self.costs.kept
        keeps = self.kept >= 1.0 - 1e-9
        self.kept -= keeps
        return keeps


def simulate(config: RunConfig, costs: Costs, split: Split | None = None, *, steps: int = STEPS) -> Simulated:
    """The first stage of the config, for so many steps; split: None for the config's own.

    Raises ValueError if the stage generates nothing.
    """
    stage = config.of_stage(config.first_stage)
    if not stage.generates:
        raise ValueError(
            f"stages.{config.first_stage} ({stage.stages[0].kind}) generates nothing: nobody waits for another"
        )
    if split is None:
        rankers = stage.ranker.num_actors if stage.asks_ranker else 0
        split = Split(stage.generator.num_actors, rankers, stage.learner.num_workers)
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder,
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):
        return runner.run(_simulated(stage, costs, split, Path(folder), steps))


async def _simulated(config: RunConfig, costs: Costs, split: Split, folder: Path, steps: int) -> Simulated:
    learner, loop = config.learner, asyncio.get_running_loop()
    mix = {"online": 1.0} if config.asks_ranker else {"online": 0.0, "unjudged": 1.0}
    settings = config.buffer.model_copy(update={"mix": type(config.buffer.mix)(**mix)})
    pairs, every = learner.pairs_per_step, learner.publish_every
    buffer = ReplayBuffer(settings, folder=folder, seed=0, pairs_per_step=pairs, publish_every=every)
    weights = WeightStore(lambda each: each)
    generators = [SimulatedGenerator(costs) for _ in range(split.generators)]
    rankers = [SimulatedRanker(costs) for _ in range(split.rankers)]
    waited, stale, marks = 0.0, list[float](), list[float]()

    async def publish(version: int) -> None:
        await weights.publish(records.Snapshot(version, {"lora": NOTHING}, str(version)))
        await buffer.advance(version)

    async def learn() -> None:
        nonlocal waited
        await publish(0)
        for step in range(steps):
            before = loop.time()
            if step == steps // 3:
                waited, marks[:] = 0.0, [before, *(each.busy for each in (*generators, *rankers))]
            batch = await buffer.take(step, pairs)
            assert batch is not None
            waited += loop.time() - before
            stale.append(staleness(batch)["staleness_mean"])
            await asyncio.sleep(costs.learn * pairs / split.workers)
            if (step + 1) % every == 0:
                await publish((step + 1) // every)
        marks.append(loop.time())

    per_request = config.generator.conditions_per_request
    await online_loop.run(
        requests=PromptStream(CONDITIONS, per_request=per_request, seed=0),
        conditions_per_request=per_request,
        generators=[InProcessHandle(each, ordered=True) for each in generators],
        rankers=[InProcessHandle(each, ordered=True) for each in rankers],
        buffer=InProcessHandle(buffer),
        weights=InProcessHandle(weights),
        learn=learn,
        requests_in_flight=config.generator.requests_in_flight,
    )
    counted, seconds = steps - steps // 3, marks[-1] - marks[0]
    grown = [each.busy - before for each, before in zip((*generators, *rankers), marks[1:-1], strict=True)]
    busy_g, busy_r = (
        min(1.0, sum(part) / (len(part) * seconds)) if part else 0.0
        for part in (grown[: len(generators)], grown[len(generators) :])
    )
    gpus = split.generators * config.generator.gpus_per_actor + split.rankers * config.ranker.gpus_per_actor
    gpus += split.workers * learner.gpus_per_worker
    counts, busy = buffer.counts(), 1 - waited / seconds
    old = (counts["stale"] + counts["late"]) / max(1, counts["added"] + counts["late"])
    return Simulated(
        gpus=gpus,
        split=split,
        pairs_an_hour=3600 * counted * pairs / seconds,
        generators_busy=busy_g,
        rankers_busy=busy_r,
        learner_busy=busy,
        staleness=float(np.mean(stale[steps // 3 :])),
        too_old=old,
        gpu_hours=gpus * seconds / 3600 / counted * config.stages[0].steps,
        advice=TOO_OLD if old > 0.2 else suggestion(generator=busy_g, ranker=busy_r if rankers else None, learner=busy),
    )


def report(config: RunConfig, *, costs: Path | None, flops: float | None, gpus: Sequence[int], out: Path | None) -> str:
    """What the command prints: the config's own split, and the best one of each count of GPUs.

    `out`: a new folder for the table and a plot. Raises ValueError that names the options if no costs are given, or two
    kinds of them, and FileExistsError that names `out` if something is there, before anything is simulated.
    """
    if out is not None:
        check_new(out)
    if costs is not None and flops is None:
        known = costs_of_run(costs) if costs.is_dir() else load_as(Costs, costs)
    elif flops is not None and costs is None:
        known = costs_of_flops(config, check_bundle(config.model.path), flops)
    else:
        raise ValueError("want one of --costs (a YAML file of seconds, or a run's folder) and --flops")
    simulated = [simulate(config, known)]
    for count in gpus:
        tried = [simulate(config, known, split) for split in splits(config, known, count)]
        simulated.append(max(tried, key=lambda each: each.pairs_an_hour))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        table = {"costs": known.model_dump(), "simulated": [asdict(each) for each in simulated]}
        (out / "simulated.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        pace_over_gpus(table["simulated"], out / "simulated.png")
    return TEMPLATES.get_template("simulate.txt").render(costs=known, simulated=simulated)


def splits(config: RunConfig, costs: Costs, gpus: int) -> list[Split]:
    """The ways to share so many GPUs that may be the best: those whose slower side is the fastest, three of them.

    As many rankers as the generators need. Raises ValueError if there are too few for one of each.
    """
    stage = config.of_stage(config.first_stage)
    pairs, uses, judged = stage.learner.pairs_per_step, stage.buffer.max_uses, stage.asks_ranker
    of_generator, of_worker = stage.generator.gpus_per_actor, stage.learner.gpus_per_worker
    of_ranker = stage.ranker.gpus_per_actor if judged else 0.0
    if not of_generator:
        raise ValueError(f"--gpus {gpus}: generator.gpus_per_actor = 0: this config has no GPUs to share")
    found: list[tuple[float, Split]] = []
    for workers in (count for count in range(1, pairs + 1) if pairs % count == 0):
        rest = gpus - workers * of_worker
        for generators in range(int(rest / of_generator), 0, -1):
            rankers = max(1, ceil(generators * costs.judge / costs.generate)) if judged else 0
            if generators * of_generator + rankers * of_ranker <= rest:
                slower = min(generators * costs.kept * uses / costs.generate, workers / costs.learn)
                found.append((slower, Split(generators, rankers, workers)))
                break
    if not found:
        raise ValueError(f"--gpus {gpus}: too few for a generator, a ranker and a learner worker of this config")
    return [split for _, split in sorted(found, key=lambda each: (-each[0], each[1].workers))[:3]]
