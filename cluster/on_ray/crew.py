"""Plain classes become Ray actors here: each class is wrapped once, with the resources that its section names.

The small actors (buffer, weights, metrics, evaluator) ask for no CPU: they mostly wait.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import ray

from actors.evaluator import Evaluator
from actors.generator import Generator
from buffers.replay import ReplayBuffer
from buffers.weight_store import WeightStore
from cluster.evaluation import videos_kept
from cluster.monitor.metrics import MetricsLog
from cluster.on_ray.learner_worker import make_trainer
from cluster.on_ray.supervision import Supervisor
from cluster.run_folder import RunFolder
from configs.schema import RunConfig
from configs.sections import Actors
from ranker.judges.function import FunctionRanker
from ranker.ranker import Ranker

NOTHING = Actors(cpus_per_actor=0.0)
"""What the small actors ask for."""


class Crew:
    """The actors of a run; `stages.py` says when generators and rankers run.

    The loop reads the lists `generators` and `rankers`: a dead actor is replaced in them. `buffer` is the stage's own.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, *, started: float, encoded_by: Mapping[str, str]) -> None:
        """started: `time.time()` at which the run's own clock stood at zero; encoded_by: `PairStore`'s."""
        self._config, self._folder, self._encoded_by = config, folder, encoded_by
        self._numbers = itertools.count()
        self._generators_of: RunConfig | None = None
        self.metrics = _actor(MetricsLog, "metrics").remote(
            folder.metrics_file, run=config.name, started=started, tracker=folder.tracker, gauge=ray_gauge
        )
        self.weights = _actor(WeightStore, "weights").remote(ray.put)
        self.buffer: Any = None
        kept, fps = videos_kept(config), config.sampling.fps
        self.evaluator = _actor(Evaluator, "evaluator").remote(config.evaluation.meter, folder.path, kept, fps)
        self.supervisor = Supervisor(config.cluster.max_failures, on_failure=self._record_failure)
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
        """The buffer of the stage is opened; rankers run if pairs of the stage are judged."""
        config = self._config.of_stage(number)
        if self.buffer is not None:
            await self.buffer.close.remote()
        self.buffer = _actor(ReplayBuffer, f"buffer-{number}").remote(
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

    def start_generators(self, config: RunConfig) -> None:
        """`generator.num_actors` of them run with this config; those of another one are stopped first."""
        if self._generators_of is not None and _videos_of(self._generators_of) != _videos_of(config):
            self.supervisor.stop("generator")
        if not self.generators:
            self._generators_of = config
            self.supervisor.watch("generator", self._generator, count=config.generator.num_actors)

    def start_rankers(self) -> None:
        """`ranker.num_actors` of them run."""
        if not self.rankers:
            self.supervisor.watch("ranker", self._ranker, count=self._config.ranker.num_actors)

    def learner(self, number: int) -> Any:
        """The Ray Train group of a stage; `fit()` blocks until its steps are done or the buffer is closed."""
        actors = {"buffer": self.buffer, "weights": self.weights, "metrics": self.metrics}
        config = self._config.of_stage(number)
        if config.stages[0].kind == "distill":
            # A generator has the text encoder. It is asked before any other work of the stage.
            self.start_generators(config)
            actors["negative"] = self.generators[0].negative.remote()
        return make_trainer(config, number=number, folder=self._folder, **actors)

    async def ready(self, waiting_for: Callable[[Sequence[str]], None]) -> None:
        """Wait until every actor has been constructed; raises the first constructor's error.

        waiting_for: is told, whenever one is ready, which ones are not.
        """
        crew = {"metrics": self.metrics, "weights": self.weights, "buffer": self.buffer, "evaluator": self.evaluator}
        crew |= {f"ranker {index}": ranker for index, ranker in enumerate(self.rankers)}
        crew |= {f"generator {index}": generator for index, generator in enumerate(self.generators)}
        left = list(crew)

        async def one(name: str) -> None:
            await crew[name].__ray_ready__.remote()
            left.remove(name)
            waiting_for(left)

        waiting_for(left)
        await asyncio.gather(*map(one, crew))

    def _record_failure(self, role: str, index: int, error: BaseException) -> None:
        row = {"role": role, "index": index, "failures": self.supervisor.count, "error": str(error)[:2000]}
        self.metrics.record.remote("failure", row)

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


def _videos_of(config: RunConfig) -> tuple[object, ...]:
    """What a generator takes from its config."""
    return config.sampling, config.generator, config.learner.lora


def nodes() -> list[dict[str, float]]:
    """`{"CPU": ..., "GPU": ...}` of every living node, for `check_resources`."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def ray_gauge(name: str, tag_keys: tuple[str, ...]) -> Any:
    """A Ray gauge; Ray exports it as `ray_<name>`. Ray wants it made inside the metrics actor."""
    from ray.util.metrics import Gauge

    return Gauge(name, description=name.replace("_", " "), tag_keys=tag_keys)


_ROLES = (Generator, Ranker, FunctionRanker, Evaluator, ReplayBuffer, MetricsLog, WeightStore)
_REMOTE = {cls: ray.remote(cls) for cls in _ROLES}


def _actor(cls: type, name: str, section: Actors = NOTHING, threads: int | None = None) -> Any:
    concurrency = {} if threads is None else {"max_concurrency": threads}
    needs = {"num_cpus": section.cpus_per_actor, "num_gpus": section.gpus_per_actor}
    return _REMOTE[cls].options(name=name, max_restarts=0, **needs, **concurrency)
