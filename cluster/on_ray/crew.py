"""Plain classes become Ray actors here: each class wrapped once, with the resources its section of the config names.

The small actors (buffer, weights, metrics, evaluator) ask for no CPU: they mostly wait.
"""

import asyncio
from math import ceil
from typing import Any

import ray

from actors.evaluator import Evaluator
from actors.generator import Generator
from actors.made_for import made_for
from buffers.replay import ReplayBuffer
from buffers.weight_store import WeightStore
from cluster.monitor.metrics import MetricsLog
from cluster.on_ray.supervision import Losses
from cluster.run_folder import RunFolder
from configs.schema import RunConfig
from policy.bundle import check_bundle
from ranker.ranker import Ranker


class Crew:
    """All actors of a run. The loop reads `generators` and `rankers`: a lost actor is replaced there."""

    def __init__(self, config: RunConfig, folder: RunFolder, *, started: float) -> None:
        self._config = config
        self.metrics = _actor(MetricsLog, "metrics").remote(
            folder.metrics_file, run=config.name, started=started, tracker=folder.tracker, gauge=ray_gauge
        )
        self.weights = _actor(WeightStore, "weights").remote(ray.put)
        belongs = made_for(check_bundle(config.model.path), max_text_tokens=config.model.max_text_tokens)
        self.buffer = _actor(ReplayBuffer, "buffer").remote(
            config.buffer, folder=folder.buffer, seed=config.seed, made_for=belongs
        )
        evaluation = config.evaluation
        self.evaluator = _actor(Evaluator, "evaluator").remote(
            evaluation.meter, folder.path, evaluation.shown_videos, config.sampling.fps
        )
        self.losses = Losses(config.cluster.max_losses, on_loss=self._record_loss)
        self.rankers = self.losses.watch("ranker", self._ranker, count=config.ranker.num_actors)
        self.generators = self.losses.watch("generator", self._generator, count=config.generator.num_actors)

    async def ready(self) -> None:
        """Wait until every actor has been constructed; raises the first constructor's error."""
        crew = [self.metrics, self.weights, self.buffer, self.evaluator, *self.rankers, *self.generators]
        await asyncio.gather(*(actor.__ray_ready__.remote() for actor in crew))

    def _record_loss(self, role: str, index: int, error: BaseException) -> None:
        row = {"role": role, "index": index, "losses": self.losses.count, "error": str(error)[:2000]}
        self.metrics.record.remote("loss", row)

    def _generator(self, index: int) -> Any:
        section = self._config.generator
        # A number that was never used: a lost actor's name is freed only some time after its death.
        name = f"generator-{index}.{self.losses.count}"
        return _actor(Generator, name, cpus=section.cpus_per_actor, gpus=section.gpus_per_actor).remote(self._config)

    def _ranker(self, index: int) -> Any:
        section, generator = self._config.ranker, self._config.generator
        name = f"ranker-{index}.{self.losses.count}"
        # Every call that can be under way, and one for `times`: the engine batches what they ask.
        threads = ceil(generator.num_actors * generator.requests_in_flight / section.num_actors) + 1
        return _actor(Ranker, name, cpus=section.cpus_per_actor, gpus=section.gpus_per_actor, threads=threads).remote(
            section
        )


def nodes() -> list[dict[str, float]]:
    """`{"CPU": ..., "GPU": ...}` of every living node, for `check_resources`."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def ray_gauge(name: str, tag_keys: tuple[str, ...]) -> Any:
    """A Ray gauge; Ray exports it as `ray_<name>`. Called inside the metrics actor, where Ray wants it made."""
    from ray.util.metrics import Gauge

    return Gauge(name, description=name.replace("_", " "), tag_keys=tag_keys)


_REMOTE = {cls: ray.remote(cls) for cls in (Generator, Ranker, Evaluator, ReplayBuffer, MetricsLog, WeightStore)}


def _actor(cls: type, name: str, *, cpus: float = 0, gpus: float = 0, threads: int | None = None) -> Any:
    concurrency = {} if threads is None else {"max_concurrency": threads}
    return _REMOTE[cls].options(name=name, num_cpus=cpus, num_gpus=gpus, max_restarts=0, **concurrency)
