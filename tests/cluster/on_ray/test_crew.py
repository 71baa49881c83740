"""What only a real Ray can show: ownership, supervisor, and the same page on its handles."""

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from buffers.records import Receipt, Request, Snapshot, TensorData

pytestmark = pytest.mark.ray


def snapshot(version: int) -> Snapshot:
    tensor = TensorData("uint8", (300_000,), np.full(300_000, version, np.uint8))
    return Snapshot(version, {"transformer.lora_A": tensor}, f"sum of {version}")


def test_published_weights_outlive_the_process_that_published_them(ray_here: None):
    import ray

    from buffers.weight_store import WeightStore

    store = ray.remote(num_cpus=0)(WeightStore).remote(ray.put)

    @ray.remote(num_cpus=0)
    class Learner:
        def publish(self) -> int:
            return ray.get(store.publish.remote(snapshot(1)))

    learner: Any = Learner.remote()
    assert ray.get(learner.publish.remote()) == 1
    ray.kill(learner)
    time.sleep(1)
    reference, published = ray.get(store.newest.remote(0))
    assert isinstance(reference, ray.ObjectRef)
    assert published == Receipt(1, 1, "sum of 1")
    read: Snapshot = ray.get(reference, timeout=20)
    assert read.adapter["transformer.lora_A"].data.sum() == 300_000
    assert not read.adapter["transformer.lora_A"].data.flags.writeable  # shared memory, not a copy
    assert ray.get(store.newest.remote(1)) is None


class Generator:
    """Dies with its process at its third request, if it is told to."""

    def __init__(self, dies: bool) -> None:
        self.dies, self.requests, self.version = dies, 0, -1

    def load_weights(self, snapshot: Snapshot) -> Receipt:
        self.version = snapshot.version
        return Receipt(snapshot.version, 1, snapshot.checksum)

    def times(self) -> int:
        return 0

    def generate(self, request: Request) -> tuple[Any, Any, Any]:
        from tests.cluster.test_online_loop import FakeGenerator

        assert self.version >= 0, "asked to generate before it was given weights"
        self.requests += 1
        if self.dies and self.requests == 3:
            os._exit(1)
        return FakeGenerator(version=self.version).generate(request)


def test_the_page_runs_on_ray_handles_and_survives_a_lost_generator(ray_here: None, tmp_path: Path):
    import ray

    from actors.streams import PromptStream
    from buffers.replay import ReplayBuffer
    from buffers.weight_store import WeightStore
    from cluster import online_loop
    from cluster.learn_steps import in_thread, learn_steps
    from cluster.on_ray.supervision import Supervisor
    from configs.sections import BufferConfig
    from tests.cluster.test_online_loop import CONDITIONS, PAIRS_PER_STEP, FakeLearner, FakeRanker

    def actor(cls: type, *args: Any, **kwargs: Any) -> Any:
        return ray.remote(num_cpus=0)(cls).remote(*args, **kwargs)

    counted: list[str] = []
    supervisor = Supervisor(1, on_failure=lambda role, index, error, count: counted.append(f"{role} {index}"))
    generators = supervisor.watch("generator", lambda index: actor(Generator, dies=not counted), count=1)
    rankers = supervisor.watch("ranker", lambda index: actor(FakeRanker), count=1)
    buffer = actor(ReplayBuffer, BufferConfig(capacity=8), folder=tmp_path / "buffer", seed=0)
    weights = actor(WeightStore, ray.put)
    learner = FakeLearner()

    def learn() -> int:
        return learn_steps(
            learner,
            steps=5,
            first_version=0,
            publish_every=1,
            checkpoint_every=10,
            take=lambda step: ray.get(buffer.take.remote(step, PAIRS_PER_STEP)),
            publish=lambda snapshot: ray.get(buffer.advance.remote(ray.get(weights.publish.remote(snapshot)))),
            save=lambda version, stopped, published: None,
            record=lambda kind, row: None,
        )

    async def story() -> int:
        return await online_loop.run(
            requests=PromptStream(CONDITIONS, per_request=2, seed=0),
            conditions_per_request=2,
            generators=generators,
            rankers=rankers,
            buffer=buffer,
            weights=weights,
            learn=lambda: in_thread(learn),
            requests_in_flight=2,
            recover=supervisor.recover,
            set_aside=supervisor.set_aside,
        )

    assert asyncio.run(asyncio.wait_for(story(), 120)) == 5
    assert counted == ["generator 0"]  # two requests were under way in it, one actor was lost
    for batch in learner.batches:
        assert all(batch.step - pair.policy_version <= 1 for pair in batch.pairs)
    assert threading.active_count() < 50


def test_failures_beyond_the_limit_end_the_run_with_the_first_one(ray_here: None):
    import ray
    from ray.exceptions import RayActorError

    from cluster.on_ray.supervision import Supervisor

    def dead(index: int) -> Any:
        handle: Any = ray.remote(num_cpus=0)(Generator).remote(dies=True)
        ray.kill(handle)
        return handle

    supervisor = Supervisor(1, on_failure=lambda role, index, error, count: None)
    handles = supervisor.watch("generator", dead, count=1)

    def call() -> BaseException:
        with pytest.raises(RayActorError) as raised:
            ray.get(handles[0].generate.remote(Request((), ())))
        return raised.value

    first = call()
    assert supervisor.recover(first)
    assert supervisor.recover(first)  # another request of the same actor: already replaced, not counted again
    assert supervisor.count == 1
    with pytest.raises(
        RuntimeError, match=r"2 losses of the role generator .*max_failures = 1; the first one"
    ) as ended:
        supervisor.recover(call())
    assert ended.value.__cause__ is first


def test_what_ray_makes_anew_is_a_loss_of_its_role_too(ray_here: None, monkeypatch: pytest.MonkeyPatch):
    import ray

    from cluster.on_ray import supervision

    monkeypatch.setattr(supervision, "RAY_SECONDS", 0.1)
    losses: list[str] = []
    supervisor = supervision.Supervisor(
        2, on_failure=lambda role, index, error, count: losses.append(f"{role} {error}")
    )
    board: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Generator).remote(dies=False)
    quiet: Any = ray.remote(num_cpus=0, max_restarts=-1)(Generator).remote(dies=False)

    async def story() -> None:
        small = {board._actor_id.hex(): "board-1.7", quiet._actor_id.hex(): "weights"}
        watching = asyncio.ensure_future(supervisor.watch_ray(small))
        for count in (1, 2, 3):
            await board.times.remote()
            ray.kill(board, no_restart=False)
            for _ in range(300):
                if len(losses) >= count:
                    break
                await asyncio.sleep(0.1)
        await watching

    with pytest.raises(RuntimeError, match=r"3 losses of the role board within an hour.*max_failures = 2.*first one"):
        asyncio.run(asyncio.wait_for(story(), 120))
    assert losses == ["board board-1.7 died; Ray made it anew"] * 3


def test_an_actor_that_finds_no_room_is_named_until_it_has_started(ray_here: None, monkeypatch: pytest.MonkeyPatch):
    import ray

    from cluster.on_ray import supervision

    monkeypatch.setattr(supervision, "RAY_SECONDS", 0.1)
    monkeypatch.setattr(supervision, "PENDING_SECONDS", 1.0)
    holds: Any = ray.remote(num_cpus=3)(Generator).remote(False)
    ray.get(holds.times.remote())
    told: list[list[str]] = []

    async def story() -> None:
        supervisor = supervision.Supervisor(5, on_failure=lambda *loss: None, on_late=told.append)
        sizes = (0, 2)  # after a shrink the second one finds no room
        supervisor.watch("generator", lambda index: ray.remote(num_cpus=sizes[index])(Generator).remote(False), count=2)
        watching = asyncio.ensure_future(supervisor.watch_ray({}))
        while told[-1:] != [["generator 1"]]:  # at first the other one has not started either
            await asyncio.sleep(0.1)
        ray.kill(holds)
        while told[-1] != []:
            await asyncio.sleep(0.1)
        watching.cancel()
        supervisor.stop("generator")

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_roles_own_error_is_no_loss(ray_here: None):
    import ray

    from cluster.on_ray.supervision import Supervisor

    supervisor = Supervisor(5, on_failure=lambda role, index, error, count: None)
    [handle] = supervisor.watch(
        "generator", lambda index: ray.remote(num_cpus=0)(Generator).remote(dies=False), count=1
    )
    with pytest.raises(AssertionError, match="before it was given weights") as raised:
        ray.get(handle.generate.remote(Request((), ())))
    assert not supervisor.recover(raised.value)
    assert not supervisor.recover(ValueError("nobody's actor"))


def test_room_is_waited_for_and_what_is_missing_is_named(ray_here: None):
    import ray

    from cluster.checks.resources import Need
    from cluster.on_ray.placement import wait_for_room
    from configs.sections import ClusterConfig

    joined, told = ClusterConfig(address="auto", start_minutes=0.05), []
    two = Need("generator", "generator.num_actors", 2, 1.0, 0.0)
    wait_for_room([two], joined, told.append)
    assert told == ["room for 2 x generator with 1 CPU (generator.num_actors)"]
    with pytest.raises(ValueError, match=r"more than there is.*9 x generator with 1 CPU \(generator\.num_actors\)"):
        wait_for_room([Need("generator", "generator.num_actors", 9, 1.0, 0.0)], joined)
    holds: Any = ray.remote(num_cpus=3)(Generator).remote(False)
    ray.get(holds.times.remote())
    with pytest.raises(ValueError, match=r"no room within cluster\.start_minutes = 0\.05.*other jobs hold it"):
        wait_for_room([two], joined)
    ray.kill(holds)
