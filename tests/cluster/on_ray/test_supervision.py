"""What counts as a loss, and how many are too many; without a cluster. `test_crew.py` has a real one."""

from dataclasses import dataclass
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayActorError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError

from buffers.records import Condition, Request, Slot
from cluster.on_ray import supervision
from cluster.on_ray.supervision import Supervisor, group_was_lost


@dataclass
class Handle:
    name: str

    @property
    def _actor_id(self) -> Any:
        return self

    def hex(self) -> str:
        return self.name


class Scene:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, limit: int = 2) -> None:
        self.now, self.killed, self.made, self.told = 0.0, [], 0, []
        monkeypatch.setattr(supervision.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(supervision.ray, "kill", self.killed.append)
        self.errors: list[str] = []
        self.supervisor = Supervisor(limit, on_failure=self.failed)
        self.generators = self.supervisor.watch("generator", self.make, count=3)

    def failed(self, role: str, index: int, error: BaseException, count: int) -> None:
        self.told.append((role, index, count))
        self.errors.append(str(error))

    def make(self, index: int) -> Handle:
        self.made += 1
        return Handle(f"{index}-{self.made}")

    def dies(self, index: int, message: str = "killed") -> bool:
        return self.supervisor.recover(RayActorError(self.generators[index].name, message))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus"),
        TimeoutError(),
    ],
)
def test_an_actor_that_cannot_go_on_is_replaced_though_it_lives(monkeypatch: pytest.MonkeyPatch, error: Exception):
    scene = Scene(monkeypatch)
    broken = scene.generators[1]
    assert scene.supervisor.recover(error, broken)
    assert scene.killed == [broken] and scene.generators[1] is not broken
    assert scene.told == [("generator", 1, 1)]
    assert scene.errors == [str(error) or "no answer within cluster.deadline_minutes: it hangs, or has not started"]
    assert scene.supervisor.recover(error, broken) and len(scene.told) == 1  # another call of the same one


def test_a_death_that_does_not_say_of_whom_is_that_of_the_actor_that_was_asked(monkeypatch: pytest.MonkeyPatch):
    scene = Scene(monkeypatch)
    asked = scene.generators[2]
    assert scene.supervisor.recover(ActorDiedError(), asked) and scene.killed == [asked]
    assert not scene.supervisor.recover(ActorDiedError())


def test_an_error_of_the_request_is_no_loss_and_neither_is_one_of_a_constructor(monkeypatch: pytest.MonkeyPatch):
    scene = Scene(monkeypatch)
    assert not scene.supervisor.recover(ValueError("no such size"), scene.generators[0])
    failed = RayActorError(scene.generators[0].name, "ValueError: no such bundle", actor_init_failed=True)
    assert not scene.supervisor.recover(failed)
    assert not scene.told
    # But a GPU that does not work may be another machine's no more.
    assert scene.supervisor.recover(
        RayActorError(scene.generators[0].name, "CUDA does not work on node 3", actor_init_failed=True)
    )


def test_a_role_may_lose_so_many_within_an_hour_and_the_first_one_is_shown(monkeypatch: pytest.MonkeyPatch):
    scene = Scene(monkeypatch)
    for minute in (0, 40, 80, 120, 160):  # never more than two within an hour
        scene.now = 60.0 * minute
        assert scene.dies(0, f"death of minute {minute}")
    scene.now += 60
    with pytest.raises(RuntimeError, match=r"3 losses of the role generator .*max_failures = 2.*death of minute 120"):
        scene.dies(1, "death of minute 161")


def test_what_a_node_takes_with_it_counts_once(monkeypatch: pytest.MonkeyPatch):
    scene = Scene(monkeypatch, limit=1)
    gone = "The actor died because its node has died. Node Id: 17"
    for index in range(3):
        scene.now = float(index)
        assert scene.dies(index, gone)
    assert scene.supervisor.recover(ObjectLostError("ab" * 14, None, "site"))
    assert scene.told == [("node", 0, 1)] and len(scene.killed) == 3
    assert scene.dies(0, "killed")  # a generator's own budget is not used up
    scene.now = 100.0
    with pytest.raises(RuntimeError, match="2 losses of the role node"):
        scene.dies(0, gone)


def test_a_request_that_is_set_aside_is_named_and_counted(monkeypatch: pytest.MonkeyPatch):
    scene = Scene(monkeypatch, limit=0)
    request = Request((Condition("c7", "a dog"),), ((1, 2),), Slot("online", 4))
    with pytest.raises(RuntimeError, match=r"1 losses of the role request.*conditions c7: no such size"):
        scene.supervisor.set_aside(request, ValueError("no such size"))


def test_a_group_is_lost_with_a_process_or_a_device_and_fails_by_its_own_error():
    def failed(*errors: Exception) -> WorkerGroupError:
        return WorkerGroupError("failed", dict(enumerate(errors)))

    def own(text: str) -> UserExceptionWithTraceback:
        return UserExceptionWithTraceback(RuntimeError(text), traceback_str=text)

    assert group_was_lost(failed(ActorDiedError(), own("Connection closed by peer")))
    assert group_was_lost(failed(own("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2907")))
    assert group_was_lost(failed(own("CUDA error: unspecified launch failure")))
    assert group_was_lost(RayActorError("ab", "the controller died"))
    assert not group_was_lost(failed(own("the gradient is not finite"), own("another learner worker failed")))
    assert not group_was_lost(ValueError("of the driver"))
