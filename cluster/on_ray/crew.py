"""Plain classes become Ray actors here: each class is wrapped once, with the resources that its section names.

The small actors (buffer, weights, metrics, evaluator, board) ask for no CPU: they mostly wait. Ray itself makes a dead
one anew and repeats its calls. Generators and rankers are replaced by `supervision.py`, the learner group by `learn`.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any

import ray
from ray.exceptions import RayTaskError

from actors.evaluator import Evaluator
from actors.generator import Generator
from buffers.records import EncodedCondition, Snapshot
from buffers.replay import ReplayBuffer
from buffers.weight_store import WeightStore
from cluster.board import Board
from cluster.checks.resources import evaluation_needs, fits, learner_need, needs
from cluster.evaluation import videos_kept
from cluster.learn_steps import in_thread, unless_failed
from cluster.monitor.metrics import MetricsLog, start_tracker
from cluster.on_ray.in_actor import ray_gauge, weights_of_before
from cluster.on_ray.learner_worker import Stage, make_trainer
from cluster.on_ray.placement import nodes, on_this_node
from cluster.on_ray.supervision import Supervisor, group_was_lost, keep_log
from cluster.run_folder import RunFolder, Sampled
from configs.schema import RunConfig
from configs.sections import Actors
from learner.reward import RewardOfVideos
from ranker.judges.function import FunctionRanker
from ranker.ranker import Ranker


class Crew:
    """The actors of a run; `stages.py` says when generators, rankers and the learner group run.

    The loop reads the lists `generators` and `rankers`: a dead actor is replaced in them. `buffer` is the stage's own.
    `small`: id -> name of the actors that Ray makes anew. `board`: of the learner group that runs. A group stays from
    stage to stage if its processes are as many and as large, and if there is room beside it for what evaluation needs.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, *, started: float, encoded_by: Mapping[str, str]) -> None:
        """started: `time.time()` at which the run's own clock stood at zero; encoded_by: `PairStore`'s."""
        self._config, self._folder, self._encoded_by = config, folder, encoded_by
        self._numbers = itertools.count()
        self._generators_of: RunConfig | None = None
        self._group: asyncio.Future[Any] | None = None
        self._group_of = config.learner
        self.small: dict[str, str] = {}
        self.deadline = 60 * config.cluster.deadline_minutes
        tracker = partial(start_tracker, config, folder.tracker)
        self.metrics = self._small_actor(
            MetricsLog, "metrics", folder.metrics_file, started=started, tracker=tracker, gauge=ray_gauge
        )
        of_before = partial(weights_of_before, folder.checkpoints)
        self.weights = self._small_actor(WeightStore, "weights", ray.put, of_before)
        self.buffer: Any = None
        self.board: Any = None
        kept, fps = videos_kept(config), config.sampling.fps
        reward = RewardOfVideos(config.reward) if config.reward else None
        self.evaluator = self._small_actor(
            Evaluator, "evaluator", config.evaluation.meter, folder.path, kept, fps, reward, folder.measured
        )
        self.supervisor = Supervisor(
            config.cluster.max_failures, on_failure=self._record_failure, on_late=self._record_late
        )
        self.generators = self.supervisor.watch("generator", self._generator, count=0)
        self.rankers = self.supervisor.watch("ranker", self._ranker, count=0)

    @property
    def sizes(self) -> dict[str, int]:
        """How many actors a role has while it runs, for those roles that say how busy they are."""
        generators = max(config.generator.num_actors for config in (self._config, *self._config.by_stage()))
        return {"generator": generators, "ranker": self._config.ranker.num_actors, "buffer": 1}

    def actor(self, role: str, index: int) -> Any:
        """The actor that plays a role just now. Raises IndexError if that role does not run in this stage."""
        return {"generator": self.generators, "ranker": self.rankers, "buffer": [self.buffer]}[role][index]

    async def begin_stage(self, number: int) -> None:
        """The buffer of the stage is opened. Who is not needed is stopped, unless it is in nobody's way."""
        config = self._config.of_stage(number)
        if self._group is not None and learner_need(self._group_of) != learner_need(config.learner):
            await self.dismiss_learners()
        if self.buffer is not None:
            await self.buffer.close.remote()
        self.buffer = self._small_actor(
            ReplayBuffer,
            f"buffer-{number}",
            config.buffer,
            folder=self._folder.buffer,
            seed=config.seed,
            encoded_by=self._encoded_by,
            stage=number,
            pairs_per_step=config.learner.pairs_per_step,
            publish_every=config.learner.publish_every,
            doubtful=self._folder.doubtful if config.buffer.keep_doubtful else None,
        )
        if config.asks_ranker:
            self.start_rankers()
        else:
            self.supervisor.stop("ranker")
        if config.has_generators:
            self.start_generators(config)
        elif not self.has_room_for_evaluation(config):
            self.supervisor.stop("generator")

    def start_generators(self, config: RunConfig) -> None:
        """`generator.num_actors` of them run and sample as this config says; those of another one are stopped first."""
        if self._generators_of is not None and self._generators_of.generator != config.generator:
            self.supervisor.stop("generator")
        self._generators_of = config
        if self.generators:
            for generator in self.generators:
                generator.sample_as.remote(config.sampling)
        else:
            self.supervisor.watch("generator", self._generator, count=config.generator.num_actors)

    async def prepare_evaluation(self) -> None:
        """Generators run, of whatever stage, and rankers if they judge; a learner group in their way ends."""
        needed = evaluation_needs(self._config)
        if self._group is not None and not fits([*needed, learner_need(self._group_of)], nodes()):
            await self.dismiss_learners()
        if not self.generators:
            self.start_generators(self._config)

    def start_rankers(self) -> None:
        """`ranker.num_actors` of them run."""
        if not self.rankers:
            self.supervisor.watch("ranker", self._ranker, count=self._config.ranker.num_actors)

    async def learn(self, number: int) -> None:
        """The learner group does a stage: until its steps are done, a guard stops it or the buffer is closed.

        If one of its processes is lost, a new group goes on from the newest state. Raises the error of a group that
        fails of itself.
        """
        config = self._config.of_stage(number)
        stage = Stage(config, number, Sampled.after(self._config, number), self.buffer)
        if stage.kind == "distill":  # a generator has the text encoder; it is asked before any other work of the stage
            stage = replace(stage, negative=ray.put(await self._negative()))
        while True:
            if self._group is None:
                self._group_of = config.learner
                self.board = self._small_actor(Board, self._new_name("board", number))
                actors = {"board": self.board, "weights": self.weights, "metrics": self.metrics}
                trainer = make_trainer(config, folder=self._folder, **actors)
                self._group = asyncio.ensure_future(in_thread(trainer.fit))
            try:
                await unless_failed(self.board.do.remote([ray.put(stage)]), self._group)
                return
            except Exception as error:
                if not group_was_lost(error):
                    raise
                self.supervisor.lost("learner", 0, error)
                self._group = None

    async def _negative(self) -> EncodedCondition:
        while True:
            generator = self.generators[0]
            try:
                return await generator.negative.remote()
            except Exception as error:
                if not self.supervisor.recover(error, generator):
                    raise

    async def dismiss_learners(self) -> None:
        """The learner group ends and gives its resources back. Raises its error if it failed."""
        if self._group is not None:
            group, self._group = self._group, None
            await self.board.close.remote()
            await group

    def has_room_for_evaluation(self, config: RunConfig) -> bool:
        """Whether an evaluation may go on while a stage starts; `config`: as the stage sees it."""
        return fits([*{*needs(config), *evaluation_needs(self._config)}], nodes())

    def shared(self, snapshot: Snapshot) -> Any:
        """A reference: the snapshot travels once, however many generators make videos with it."""
        return ray.put(snapshot)

    async def ready(self, waiting_for: Callable[[Sequence[str]], None]) -> None:
        """Wait until every actor has been constructed; raises the first constructor's error.

        waiting_for: is told, whenever one is ready, which ones are not.
        """
        small = {"metrics": self.metrics, "weights": self.weights, "buffer": self.buffer, "evaluator": self.evaluator}
        crew: dict[str, Callable[[], Any]] = {name: partial(small.__getitem__, name) for name in small}
        for role, actors in (("ranker", self.rankers), ("generator", self.generators)):
            crew |= {f"{role} {index}": partial(actors.__getitem__, index) for index in range(len(actors))}
        left = list(crew)

        async def one(name: str) -> None:
            while name in left:
                actor = crew[name]()
                try:
                    await actor.__ray_ready__.remote()
                    left.remove(name)
                except Exception as error:
                    if not self.supervisor.recover(error, actor):
                        raise
            waiting_for(left)

        waiting_for(left)
        minutes = self._config.cluster.start_minutes
        try:
            async with asyncio.timeout(60 * minutes):
                await asyncio.gather(*map(one, crew))
        except TimeoutError:
            raise TimeoutError(
                f"{', '.join(left)}: not started within cluster.start_minutes = {minutes:g}. There is no room, "
                f"or their models are still being read; {self._folder.logs} and `ray list actors` say more"
            ) from None

    def _record_failure(self, role: str, index: int, error: BaseException, count: int) -> None:
        row = {"role": role, "index": index, "failures": count, "error": str(error)[:2000]}
        self.metrics.record.remote("failure", row)
        cause = error.cause if isinstance(error, RayTaskError) else error
        dead = (getattr(each, "actor_id", None) for each in (cause, *getattr(cause, "worker_failures", {}).values()))
        if actor := next(filter(None, dead), None):
            threading.Thread(target=keep_log, args=(actor, self._folder.logs / f"{role}-{index}.{count}.log")).start()

    def _record_late(self, names: list[str]) -> None:
        self.metrics.record.remote("late", {"actors": names, "not_started": len(names)})

    def _generator(self, index: int) -> Any:
        assert self._generators_of is not None, "generators are made by start_generators"
        name, section = self._new_name("generator", index), self._generators_of.generator
        return _actor(Generator, name, section).remote(self._generators_of)

    def _ranker(self, index: int) -> Any:
        name, section, generator = self._new_name("ranker", index), self._config.ranker, self._config.generator
        # Every call that can be under way, and one for `times`: the engine batches what they ask.
        threads = ceil(generator.num_actors * generator.requests_in_flight / section.num_actors) + 1
        if section.kind == "function":
            return _actor(FunctionRanker, name, section, threads).remote(section)
        # A reference: the ranker is built with the counts that the buffer's folder holds then.
        # A run of which the last evaluation alone is left has no buffer.
        counted = None if self.buffer is None else self.buffer.counts.remote()
        return _actor(Ranker, name, section, threads).remote(section, counted)

    def _new_name(self, role: str, index: int) -> str:
        """One that was never used: a dead actor's name is freed only some time after its death."""
        return f"{role}-{index}.{next(self._numbers)}"

    def _small_actor(self, cls: type, name: str, *given: Any, **named: Any) -> Any:
        """Beside the driver, and made anew by Ray if it dies: what it has to know is on disk."""
        again = {"max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": on_this_node()}
        actor: Any = _REMOTE[cls].options(name=name, num_cpus=0, **again).remote(*given, **named)
        self.small[actor._actor_id.hex()] = name
        return actor


_ROLES = (Board, Generator, Ranker, FunctionRanker, Evaluator, ReplayBuffer, MetricsLog, WeightStore)
_REMOTE = {cls: ray.remote(cls) for cls in _ROLES}


def _actor(cls: type, name: str, section: Actors, threads: int | None = None) -> Any:
    concurrency = {} if threads is None else {"max_concurrency": threads}
    needs = {"num_cpus": section.cpus_per_actor, "num_gpus": section.gpus_per_actor}
    return _REMOTE[cls].options(name=name, max_restarts=0, **needs, **concurrency)
