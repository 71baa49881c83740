"""What the loop itself costs: roles of known cost on a real Ray, and an adapter that many readers share.

    python -m benchmarks.overhead --out benchmarks/results/overhead.json

Generators, ranker and learner only sleep; the loop, the buffer, the weight store and Ray are real, latents are of the
miniature's size. The wall time of a run is compared with that of its slower side alone. CPU seconds are those of the
driver, the buffer and the weight store, for each pair that is learned from. Then 200 MB of adapter are published, and
eight processes read them at once: how much memory of its own has each.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch

from actors.streams import PromptStream
from buffers.clock import RoleClock
from buffers.records import (
    Batch,
    Candidates,
    CandidateVideos,
    Condition,
    EncodedCondition,
    Receipt,
    Request,
    RoleTimes,
    Scores,
    Snapshot,
    TensorData,
)
from buffers.replay import ReplayBuffer
from buffers.tensors import encode
from buffers.weight_store import WeightStore
from cluster import online_loop
from cluster.learn_steps import in_thread, learn_steps
from cluster.on_ray.connect import connected
from configs.sections import BufferConfig, ClusterConfig

PAIRS_PER_STEP, STEPS, WARM_UP = 8, 40, 8
LATENTS = (16, 3, 4, 4)
MB = 2**20


class Sleeping:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def pid(self) -> int:
        return psutil.Process().pid

    def times(self) -> RoleTimes:
        return RoleClock().times({})


class Generator(Sleeping):
    version = 0

    def load_weights(self, snapshot: Snapshot) -> Receipt:
        self.version = snapshot.version
        return Receipt(snapshot.version, len(snapshot.adapter), snapshot.checksum)

    def generate(self, request: Request) -> tuple[list[Candidates], list[CandidateVideos], int]:
        time.sleep(self._seconds * len(request.conditions))
        latents = encode(torch.zeros(LATENTS))
        videos, candidates, clips = np.zeros((9, 32, 32, 3), np.uint8), [], []
        for each, (one, two) in zip(request.conditions, request.seeds, strict=True):
            conditioning = EncodedCondition(each, latents)
            candidates.append(Candidates(each, conditioning, (one, two), latents, latents, self.version))
            clips.append(CandidateVideos(each, videos, videos, 8.0, self.version))
        return candidates, clips, len(clips)


class Ranker(Sleeping):
    def rank(self, clips: Sequence[CandidateVideos]) -> list[Scores]:
        time.sleep(self._seconds * len(clips))
        return [Scores(1.0, 0.0) for _ in clips]


class Learner:
    def __init__(self, seconds: float) -> None:
        self.steps, self.ended, self._seconds = 0, list[float](), seconds

    def step(self, batch: Batch) -> dict[str, float]:
        time.sleep(self._seconds * len(batch.pairs))
        self.steps += 1
        self.ended.append(time.monotonic())
        return {"loss": 0.5}

    def snapshot(self, version: int) -> Snapshot:
        return Snapshot(version, {"lora": TensorData("uint8", (1,), np.zeros(1, np.uint8))}, str(version))


class Reader:
    def hold(self, snapshot: Snapshot) -> tuple[float, bool]:
        """Own memory in MB while it holds the adapter and has read it, and whether the arrays can be written to."""
        self._held = snapshot
        total = sum(int(each.data.sum()) for each in snapshot.adapter.values())
        assert total >= 0
        return psutil.Process().memory_full_info().uss / MB, any(
            each.data.flags.writeable for each in snapshot.adapter.values()
        )

    def own(self) -> float:
        return psutil.Process().memory_full_info().uss / MB


def actor(cls: type, *given: Any, **named: Any) -> Any:
    return ray.remote(num_cpus=0)(cls).remote(*given, **named)


def pace(folder: Path, *, generate: float, learn: float, generators: int) -> dict[str, float]:
    """Wall time after the first steps against the slower side's own, and CPU seconds of a pair."""
    made = [actor(Generator, generate) for _ in range(generators)]
    ranker, learner = actor(Ranker, 0.002), Learner(learn)
    buffer = actor(ReplayBuffer, BufferConfig(capacity=32, max_staleness=100), folder=folder, seed=0)
    weights = actor(WeightStore, ray.put)
    begun, ours = time.time(), [psutil.Process()]
    before: list[float] = []

    def take(step: int) -> Batch | None:
        if step == WARM_UP:
            for process in psutil.process_iter(["cmdline", "create_time"]):
                title = (process.info["cmdline"] or [""])[0]
                if (
                    title.startswith(("ray::ReplayBuffer", "ray::WeightStore"))
                    and process.info["create_time"] > begun - 1
                ):
                    ours.append(process)
            before.append(cpu(ours))
        return ray.get(buffer.take.remote(step, PAIRS_PER_STEP))

    def learning() -> int:
        return learn_steps(
            learner,
            steps=STEPS,
            first_version=0,
            publish_every=1,
            checkpoint_every=10**6,
            take=take,
            publish=lambda snapshot: ray.get(buffer.advance.remote(ray.get(weights.publish.remote(snapshot)))),
            save=lambda version, stopped, published: None,
            record=lambda kind, row: None,
        )

    asyncio.run(
        online_loop.run(
            requests=PromptStream([Condition(str(n), str(n), "general") for n in range(16)], per_request=2, seed=0),
            conditions_per_request=2,
            generators=made,
            rankers=[ranker],
            buffer=buffer,
            weights=weights,
            learn=lambda: in_thread(learning),
            requests_in_flight=2,
        )
    )
    pairs = PAIRS_PER_STEP * (STEPS - WARM_UP)
    wall = learner.ended[-1] - learner.ended[WARM_UP - 1]
    slower = pairs * max(generate / generators, learn)
    return {
        "generate_s": generate,
        "learn_s": learn,
        "generators": generators,
        "wall_s": round(wall, 2),
        "slower_side_s": round(slower, 2),
        "ratio": round(wall / slower, 3),
        "own_cpu_ms_of_a_pair": round(1000 * (cpu(ours) - before[0]) / pairs, 1),
    }


def cpu(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def shared(readers: int, megabytes: int) -> dict[str, Any]:
    """One adapter, published once and read by all."""
    block = np.random.default_rng(0).integers(0, 255, 2 * MB, np.uint8)
    adapter = {str(number): TensorData("uint8", (2 * MB,), block.copy()) for number in range(megabytes // 2)}
    weights = actor(WeightStore, ray.put)
    started = time.perf_counter()
    ray.get(weights.publish.remote(Snapshot(1, adapter, "sum")))
    published = time.perf_counter()
    reference, _ = ray.get(weights.newest.remote(0))
    reading = [actor(Reader) for _ in range(readers)]
    before = ray.get([each.own.remote() for each in reading])
    begun = time.perf_counter()
    held = ray.get([each.hold.remote(reference) for each in reading])
    grown = [now - was for (now, _), was in zip(held, before, strict=True)]
    return {
        "megabytes": megabytes,
        "readers": readers,
        "publish_s": round(published - started, 2),
        "all_have_read_s": round(time.perf_counter() - begun, 2),
        "own_mb_of_a_reader": round(max(grown), 1),
        "writable": any(writable for _, writable in held),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with connected(ClusterConfig(num_cpus=4), on_gpus=False, logs=place / "logs"):
            found = {
                "generation_is_slower": pace(place / "one", generate=0.4, learn=0.05, generators=2),
                "learning_is_slower": pace(place / "two", generate=0.1, learn=0.2, generators=2),
                "adapter": shared(8, 200),
            }
    given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
