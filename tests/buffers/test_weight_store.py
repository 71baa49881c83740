import asyncio
from typing import Any

import numpy as np
import pytest

from buffers.records import Receipt, Snapshot, TensorData
from buffers.weight_store import WeightStore


def snapshot(version: int, adapter: dict[str, Any] | None = None) -> Snapshot:
    tensor = TensorData("uint8", (1,), np.array([version], np.uint8))
    return Snapshot(
        version, {"transformer.a": tensor, "transformer.b": tensor} if adapter is None else adapter, f"#{version}"
    )


def test_newest_gives_the_reference_and_what_a_receiver_must_answer():
    async def story() -> list[Any]:
        store = WeightStore(put=lambda snapshot: f"reference to {snapshot.version}")
        before = await store.newest(-1)
        await store.publish(snapshot(3))
        return [before, await store.newest(2), await store.newest(3)]

    before, newer, nothing = asyncio.run(story())
    assert before is None and nothing is None
    assert newer == ("reference to 3", Receipt(3, 2, "#3"))


@pytest.mark.parametrize("version", [4, 5])
def test_versions_only_rise(version: int):
    async def story() -> None:
        store = WeightStore(put=lambda snapshot: snapshot)
        await store.publish(snapshot(5))
        await store.publish(snapshot(version))

    with pytest.raises(ValueError, match=f"version {version} cannot follow version 5"):
        asyncio.run(story())


def test_an_adapter_that_binds_to_nothing_is_never_published():
    async def story() -> None:
        await WeightStore(put=lambda snapshot: snapshot).publish(snapshot(0, {}))

    with pytest.raises(ValueError, match="without LoRA parameters"):
        asyncio.run(story())


def test_two_versions_are_kept_and_older_ones_let_go():
    held = {}

    class Reference:
        def __init__(self, version: int) -> None:
            self.version = version
            held[version] = True

        def __del__(self) -> None:
            held[self.version] = False

    async def story() -> dict[int, bool]:
        store = WeightStore(put=lambda snapshot: Reference(snapshot.version))
        for version in range(4):
            await store.publish(snapshot(version))
        return dict(held)

    assert asyncio.run(story()) == {0: False, 1: False, 2: True, 3: True}


def test_all_who_wait_get_the_first_snapshot():
    async def story() -> list[Any]:
        store = WeightStore(put=lambda snapshot: snapshot.version)
        waiting = [asyncio.ensure_future(store.newest(-1, wait=True)) for _ in range(3)]
        await asyncio.sleep(0)
        await store.publish(snapshot(0))
        return [newest[0] for newest in await asyncio.gather(*waiting) if newest]

    assert asyncio.run(asyncio.wait_for(story(), 5)) == [0, 0, 0]
