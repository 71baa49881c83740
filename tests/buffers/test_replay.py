import asyncio
import dataclasses
import errno
import itertools
import os
import resource
from collections import Counter
from collections.abc import Awaitable
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from buffers.people.exported import manifest_rows
from buffers.people.rows import PairRow
from buffers.records import Batch, Request, Slot
from buffers.replay import COUNTS, ReplayBuffer
from buffers.store.pair_store import PairStore
from configs.sections import BufferConfig, MixConfig
from tests.buffers.samples import anchor, candidates, conditioning, pair, same, verdict

T = TypeVar("T")
LIMIT_S = 30.0
"""Far more than anything here takes: a wait that never ends fails instead of hanging."""


def buffer(folder: Path, *, seed: int = 0, **config) -> ReplayBuffer:
    return ReplayBuffer(BufferConfig(**config), folder=folder, seed=seed)


def play(scene: Awaitable[T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(scene, LIMIT_S)

    return asyncio.run(bounded())


async def fill(replay: ReplayBuffer, numbers, *, version: int = 0) -> int:
    numbers = list(numbers)
    return await replay.add([candidates(n, version=version) for n in numbers], [verdict()] * len(numbers))


async def waiting(task: asyncio.Task) -> bool:
    """Whether a task is still not done after everything that can happen has had its turn."""
    await asyncio.sleep(0.05)
    return not task.done()


def numbers(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [int(pair.chosen_id.rpartition("-")[2]) // 2 for pair in batch.pairs]


def test_a_batch_holds_the_pairs_that_were_added_with_their_conditionings(tmp_path):
    async def scene():
        replay = buffer(tmp_path)
        added = await replay.add(
            [candidates(0, condition=0), candidates(1, condition=1), candidates(2, condition=0)],
            [verdict(), verdict(2, dropped="disagreement"), verdict()],
        )
        batch = await replay.take(7, 2)
        assert added == 2 and batch is not None
        assert batch.step == 7 and batch.staleness == (0, 0)
        assert same({pair.id: pair for pair in batch.pairs}, {"c0-0-1": pair(0), "c0-4-5": pair(2)})
        assert same(batch.conditionings, {"c0": conditioning(0)})

    play(scene())


def test_how_many_pairs_motion_decided_is_known_when_the_folder_is_opened_again(tmp_path):
    async def scene():
        replay = buffer(tmp_path)
        labels = [verdict(3), verdict(4, dropped="motion_share"), verdict(1), verdict(2, dropped="disagreement")]
        assert await replay.add([candidates(n) for n in range(4)], labels) == 2
        await replay.close()
        counts = buffer(tmp_path).counts()
        assert (counts["kept_motion"], counts["kept_distortion"], counts["dropped_motion_share"]) == (1, 1, 1)

    play(scene())


def test_pairs_in_doubt_are_kept_apart_for_people_and_never_learned_from(tmp_path):
    """Three answers: sure, in doubt, and beyond the share of motion, of which nobody has to say more."""
    preferences = [verdict(), verdict(2, dropped="disagreement"), verdict(3, dropped="motion_share")]

    async def story() -> Batch | None:
        batch = None
        for _ in range(2):  # The second time it is a run that goes on: the request comes again.
            folders = {"folder": tmp_path / "buffer", "doubtful": tmp_path / "doubtful"}
            replay = ReplayBuffer(BufferConfig(), seed=0, **folders)
            await replay.add([candidates(n) for n in range(3)], preferences)
            batch = await replay.take(0, 1)
            await replay.close()
        return batch

    batch = asyncio.run(story())
    assert batch is not None and [each.id for each in batch.pairs] == [pair(0).id]
    store = PairStore(tmp_path / "doubtful", write=False)
    (doubtful,) = store.read([each.id for each in store.catalog.pairs()])
    assert doubtful.id == pair(1).id and doubtful.verdict == preferences[1]
    assert same(doubtful.chosen, candidates(1).latents_b)
    (row,) = manifest_rows(store)
    assert isinstance(row, PairRow) and row.label is None and row.choice is None
    assert (row.a_id, row.b_id) == (pair(1).chosen_id, pair(1).rejected_id)  # as they were shown, not by the doubt
    store.close()


def test_take_waits_until_there_are_enough(tmp_path):
    async def scene():
        replay = buffer(tmp_path)
        await fill(replay, [0, 1])
        take = asyncio.create_task(replay.take(0, 3))
        assert await waiting(take)
        await fill(replay, [2])
        assert sorted(numbers(await take)) == [0, 1, 2]
        assert replay.times().counts["take_waiting_ms"] >= 40
        assert replay.times().waiting_s >= 0.04

    play(scene())


def test_add_waits_while_the_buffer_is_full_and_stores_nothing_meanwhile(tmp_path):
    async def scene():
        replay = buffer(tmp_path, capacity=4)
        assert await fill(replay, [0, 1, 2]) == 3
        assert await fill(replay, [3, 4, 5]) == 3  # Below capacity at its start: goes beyond it once.
        add = asyncio.create_task(fill(replay, [6]))
        assert await waiting(add)
        segments = len(list(tmp_path.glob("pairs-*.arrow")))
        await replay.take(0, 2)
        assert await waiting(add)  # Four are left, which is full.
        assert len(list(tmp_path.glob("pairs-*.arrow"))) == segments == 2
        await replay.take(1, 1)
        assert await add == 1
        assert replay.times().counts["usable"] == 4

    play(scene())


def test_adds_at_the_same_time_do_not_all_slip_in(tmp_path):
    async def scene():
        replay = buffer(tmp_path, capacity=2)
        adds = [asyncio.create_task(fill(replay, [n])) for n in range(6)]
        while sum(add.done() for add in adds) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert sum(add.done() for add in adds) == 2
        assert replay.times().counts["usable"] == 2
        for step in range(2):
            await replay.take(step, 2)
        assert sum(await asyncio.gather(*adds)) == 6
        assert replay.counts()["added"] == 6

    play(scene())


def test_verdicts_without_a_pair_to_keep_do_not_wait(tmp_path):
    async def scene():
        replay = buffer(tmp_path, capacity=1)
        await fill(replay, [0])
        assert await replay.add([candidates(1)], [verdict(dropped="low_confidence")]) == 0

    play(scene())


@pytest.mark.parametrize(("max_staleness", "left"), [(0, [4, 5]), (1, [2, 3, 4, 5]), (2, [0, 1, 2, 3, 4, 5])])
def test_pairs_too_far_behind_are_dropped_and_counted(tmp_path, max_staleness, left):
    async def scene():
        replay = buffer(tmp_path, max_staleness=max_staleness)
        for version in (0, 1, 2):
            await fill(replay, [2 * version, 2 * version + 1], version=version)
            await replay.advance(version)
        assert replay.counts()["stale"] == 6 - len(left)
        take = asyncio.create_task(replay.take(0, len(left) + 1))
        assert await waiting(take)
        batch = await replay.take(1, len(left))
        assert sorted(numbers(batch)) == left
        assert batch is not None
        for number, staleness in zip(numbers(batch), batch.staleness, strict=True):
            assert staleness == 2 - number // 2 <= max_staleness
        await replay.close()
        assert await take is None

    play(scene())


def test_a_pair_that_comes_too_late_is_not_stored(tmp_path):
    async def scene():
        replay = buffer(tmp_path, max_staleness=0)
        await replay.advance(3)
        await replay.advance(1)  # Old news: versions never go backwards.
        assert await fill(replay, [0], version=2) == 0
        assert await fill(replay, [1], version=3) == 1
        assert await fill(replay, [2], version=4) == 1  # Its generator heard of version 4 before the buffer did.
        batch = await replay.take(0, 2)
        assert batch is not None and batch.staleness == (0, 0)
        assert (replay.counts()["late"], replay.counts()["added"], replay.counts()["stale"]) == (1, 2, 0)

    play(scene())


def test_dropping_stale_pairs_makes_room(tmp_path):
    async def scene():
        replay = buffer(tmp_path, capacity=1, max_staleness=0)
        await fill(replay, [0])
        late, fresh = asyncio.create_task(fill(replay, [1])), asyncio.create_task(fill(replay, [2], version=1))
        assert await waiting(late) and await waiting(fresh)
        await replay.advance(1)
        assert (await late, await fresh) == (0, 1)

    play(scene())


def test_a_pair_is_used_max_uses_times_and_unused_ones_go_first(tmp_path):
    async def scene():
        replay = buffer(tmp_path, max_uses=2)
        await fill(replay, range(4))
        first, second = numbers(await replay.take(0, 2)), numbers(await replay.take(1, 2))
        assert sorted(first + second) == [0, 1, 2, 3]
        await fill(replay, [4])
        third = numbers(await replay.take(2, 1))
        assert third == [4]
        rest = numbers(await replay.take(3, 4)) + numbers(await replay.take(4, 1))
        assert sorted(rest) == [0, 1, 2, 3, 4]
        more = asyncio.create_task(replay.take(5, 1))
        assert await waiting(more)
        assert replay.counts()["taken"] == 10
        await replay.close()
        assert await more is None

    play(scene())


def test_the_oldest_version_goes_first(tmp_path):
    async def scene():
        replay = buffer(tmp_path, max_staleness=5)
        for version in (2, 0, 1):
            await fill(replay, [2 * version, 2 * version + 1], version=version)
        assert sorted(numbers(await replay.take(0, 3)))[:2] == [0, 1]

    play(scene())


async def drawn(folder: Path, *, seed: int, step: int, order) -> list[int]:
    replay = buffer(folder, seed=seed)
    for number in order:
        await fill(replay, [number])
    return numbers(await replay.take(step, 8))


def test_the_batch_depends_on_seed_and_step_and_not_on_the_order_of_arrival(tmp_path):
    async def scene():
        once = await drawn(tmp_path / "a", seed=1, step=3, order=range(16))
        assert await drawn(tmp_path / "b", seed=1, step=3, order=reversed(range(16))) == once
        assert await drawn(tmp_path / "c", seed=2, step=3, order=range(16)) != once
        assert await drawn(tmp_path / "d", seed=1, step=4, order=range(16)) != once
        assert sorted(once) != list(range(8))

    play(scene())


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_share_one_batch(tmp_path, world_size):
    async def scene():
        replay = buffer(tmp_path)
        await fill(replay, range(12))
        takes = [replay.take(0, 8, rank=rank, world_size=world_size) for rank in reversed(range(world_size))]
        shares = [numbers(batch) for batch in reversed(await asyncio.gather(*takes))]
        assert [len(share) for share in shares] == [8 // world_size] * world_size
        together = [number for share in shares for number in share]
        assert together == numbers(await replay.take(0, 8))
        assert len(set(together)) == 8
        assert replay.counts()["taken"] == 8

    play(scene())


def test_pairs_of_one_size_are_neighbours_and_every_rank_knows_all_sizes(tmp_path):
    sizes = [(4, 3, 2, 2), (4, 3, 1, 4), (4, 3, 4, 1)]

    async def scene():
        replay = buffer(tmp_path)
        await replay.add([candidates(n, shape=sizes[n % 3]) for n in range(12)], [verdict()] * 12)
        whole, *halves = [
            await replay.take(0, 8),
            *[await replay.take(0, 8, rank=rank, world_size=2) for rank in range(2)],
        ]
        assert whole is not None
        shapes = [pair.chosen.shape for pair in whole.pairs]
        runs = [shape for shape, _ in itertools.groupby(shapes)]
        assert len(runs) == len(set(shapes)) == 3
        assert [each.shapes for each in (whole, *halves) if each] == [tuple(shapes)] * 3
        assert numbers(halves[0]) + numbers(halves[1]) == numbers(whole)

    play(scene())


def test_a_rank_that_waits_for_a_step_gets_it_though_the_pairs_are_gone(tmp_path):
    async def scene():
        replay = buffer(tmp_path)
        slow = asyncio.create_task(replay.take(0, 2, rank=1, world_size=2))
        fast = asyncio.create_task(replay.take(0, 2, rank=0, world_size=2))
        await asyncio.sleep(0)
        await fill(replay, [0, 1])
        assert sorted(numbers(await slow) + numbers(await fast)) == [0, 1]
        assert replay.times().counts["usable"] == 0

    play(scene())


def test_a_restarted_learner_gets_the_same_batches_again(tmp_path):
    async def scene():
        replay = buffer(tmp_path, max_staleness=0)
        await fill(replay, range(6))
        before = [await replay.take(step, 2) for step in range(3)]
        await replay.advance(9)
        after = [await replay.take(step, 2) for step in range(3)]
        assert same(tuple(before), tuple(after))
        assert replay.counts()["taken"] == 6

    play(scene())


def test_reopening_goes_on_where_it_stopped(tmp_path):
    async def scene():
        first = buffer(tmp_path, max_uses=2)
        await fill(first, range(4))
        batch = await first.take(0, 2)
        await first.close()
        second = buffer(tmp_path, max_uses=2)
        assert same(await second.take(0, 2), batch)
        assert not set(numbers(await second.take(1, 2))) & set(numbers(batch))  # The unused ones.
        assert sorted(numbers(await second.take(2, 4))) == [0, 1, 2, 3]
        assert second.times().counts["usable"] == 0
        assert await fill(second, [0, 9]) == 1
        assert second.counts()["duplicate"] == 1

    play(scene())


def test_a_request_sent_twice_is_stored_once(tmp_path):
    async def scene():
        replay = buffer(tmp_path)
        assert sum(await asyncio.gather(fill(replay, [0, 1]), fill(replay, [1, 0]), fill(replay, [2, 2]))) == 3
        assert (replay.counts()["added"], replay.counts()["duplicate"]) == (3, 3)
        assert sorted(numbers(await replay.take(0, 3))) == [0, 1, 2]

    play(scene())


def test_close_lets_everybody_go(tmp_path):
    async def scene():
        replay = buffer(tmp_path, capacity=2)
        await fill(replay, [0])
        take = asyncio.create_task(replay.take(0, 2))  # One pair is there, and nobody adds a second.
        assert await waiting(take)
        take.cancel()
        await fill(replay, [1])
        adds = [asyncio.create_task(fill(replay, [n])) for n in (2, 3)]
        assert await waiting(adds[0]) and await waiting(adds[1])
        await replay.close()
        await replay.close()
        assert await asyncio.gather(*adds) == [0, 0]
        assert await fill(replay, [5]) == 0 and await replay.take(0, 1) is None
        assert replay.counts()["added"] == 2
        again = buffer(tmp_path, capacity=4)  # The folder is free, and holds what was acknowledged.
        takes = [asyncio.create_task(again.take(0, 4, rank=rank, world_size=2)) for rank in (0, 1)]
        assert await waiting(takes[0]) and await waiting(takes[1])
        await again.close()
        assert await asyncio.gather(*takes) == [None, None]

    play(scene())


def test_an_add_that_is_being_stored_when_the_buffer_closes_is_finished(tmp_path):
    async def scene():
        replay = buffer(tmp_path)
        add = asyncio.create_task(fill(replay, range(8)))
        while not replay._writing.locked():
            await asyncio.sleep(0)
        await replay.close()
        assert await add == 8
        assert buffer(tmp_path).times().counts["usable"] == 8

    play(scene())


def test_a_cancelled_add_is_stored_as_a_whole(tmp_path):
    async def scene():
        replay = buffer(tmp_path)
        add = asyncio.create_task(fill(replay, [0, 1]))
        while not replay.times().counts["reserved"]:
            await asyncio.sleep(0)
        add.cancel()
        assert sorted(numbers(await replay.take(0, 2))) == [0, 1]

    play(scene())


@contextmanager
def full_disk():
    """The kernel lets no file of this process grow."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_error_in_storing_reaches_the_adder_and_costs_nothing_else(tmp_path, monkeypatch):
    async def scene():
        replay = buffer(tmp_path, capacity=2)
        await fill(replay, [0])

        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left") as error:
                await fill(replay, [1])
        with full_disk(), pytest.raises(OSError, match=r"cannot write: .*waiting\.sqlite"):
            await replay.take(0, 1)
        assert str(tmp_path) in str(error.value)
        assert replay.counts()["added"] == 1 and replay.counts()["taken"] == 0
        assert await fill(replay, [1]) == 1  # Its reservation was given back: there is room for one.
        assert sorted(numbers(await replay.take(0, 2))) == [0, 1]

    play(scene())


def test_counts_are_all_there_from_the_start_and_add_up(tmp_path):
    async def scene():
        replay = buffer(tmp_path)
        assert replay.counts() == dict.fromkeys(COUNTS, 0)
        await replay.add(
            [candidates(n) for n in range(4)],
            [verdict(1), verdict(4, first_shown=2, agreed=False), verdict(3), verdict(1, dropped="low_label_mass")],
        )
        await replay.take(0, 2)
        await replay.advance(2)
        changed = {key: value for key, value in replay.counts().items() if value}
        assert changed == {
            "judged": 4,
            "label_1": 2,
            "label_3": 1,
            "label_4": 1,
            "agreed": 3,
            "disagreed_general_4": 1,
            "first_general_4": 1,
            "kept_distortion": 1,
            "kept_motion": 2,
            "dropped_low_label_mass": 1,
            "added": 3,
            "taken": 2,
            "stale": 1,
        }
        assert replay.times().busy_s > 0

    play(scene())


@pytest.mark.parametrize(
    ("count", "rank", "world_size", "message"),
    [
        (3, 0, 2, r"learner.pairs_per_step \(3\) must be divisible by learner.num_workers \(2\)"),
        (9, 0, 1, r"learner.pairs_per_step \(9\) is more than buffer.capacity \(8\)"),
        (0, 0, 1, "count 0"),
        (2, 2, 2, "rank 2 of 2"),
    ],
)
def test_a_share_that_cannot_be_is_an_error_at_once(tmp_path, count, rank, world_size, message):
    with pytest.raises(ValueError, match=message):
        play(buffer(tmp_path, capacity=8).take(0, count, rank=rank, world_size=world_size))


def test_a_step_cannot_change_its_size(tmp_path):
    async def scene():
        replay = buffer(tmp_path)
        await fill(replay, range(4))
        await replay.take(0, 2)
        with pytest.raises(ValueError, match="step 0 was drawn with 2 pairs and is now asked for with 4"):
            await replay.take(0, 4)

    play(scene())


def test_every_candidate_needs_a_verdict(tmp_path):
    with pytest.raises(ValueError, match="1 candidates but 2 verdicts"):
        play(buffer(tmp_path).add([candidates(0)], [verdict(), verdict()]))


def people(folder: Path, count: int) -> str:
    """A store of people's own pairs."""
    store = PairStore(folder)
    pairs = [dataclasses.replace(pair(1000 + n), source="offline", verdict=None) for n in range(count)]
    pairs[0] = dataclasses.replace(pairs[0], source="online")  # Of another run.
    store.append(pairs, [conditioning(0)])
    store.close()
    return str(folder)


def test_peoples_pairs_are_mixed_in_exactly_and_do_not_age(tmp_path):
    async def scene():
        mix = {"online": 0.75, "offline": 0.25}
        settings = {"offline": people(tmp_path / "people", 3), "mix": mix, "max_staleness": 0, "max_uses": 3}
        replay = buffer(tmp_path / "run", capacity=100, **settings)
        taken = []
        for step in range(3):
            await replay.advance(step)
            await fill(replay, range(10 * step, 10 * step + 4), version=step)
            batch = await replay.take(step, 4)
            assert batch is not None and sorted(batch.conditionings) == ["c0"]
            assert batch.staleness == (0, 0, 0, 0)
            taken += numbers_from(batch, 1000)
            assert [len(numbers_from(batch, 1000)), len(batch.pairs)] == [1, 4]
        assert sorted(taken) == [1000, 1001, 1002]
        await replay.close()
        people_since = PairStore(tmp_path / "people")
        people_since.append([dataclasses.replace(pair(2000), source="offline", verdict=None)])
        people_since.close()
        again = buffer(tmp_path / "run", capacity=100, **settings)
        await fill(again, range(50, 53), version=2)
        assert numbers_from(await again.take(3, 4), 1000) == [2000]  # The one that was used least often.

    def numbers_from(batch: Batch | None, first: int) -> list[int]:
        return [number for number in numbers(batch) if number >= first]

    play(scene())


def test_a_step_waits_for_each_source(tmp_path):
    async def scene():
        replay = buffer(tmp_path / "run", mix={"online": 0.5, "half_online": 0.5}, capacity=100)
        await fill(replay, range(8))
        take = asyncio.create_task(replay.take(0, 4))
        assert await waiting(take)
        halves = [dataclasses.replace(pair(n), source="half-online") for n in (100, 101)]
        assert await replay.add_pairs(halves, [conditioning(0), conditioning(0)]) == 2
        batch = await take
        assert batch is not None
        assert sorted(pair.source for pair in batch.pairs) == ["half-online"] * 2 + ["online"] * 2

    play(scene())


def test_capacity_counts_bytes_too(tmp_path):
    async def scene():
        size = pair(0).chosen.nbytes * 2
        replay = buffer(tmp_path, capacity=100, capacity_gb=3 * size / 1e9)
        await fill(replay, [0, 1, 2])
        add = asyncio.create_task(fill(replay, [3]))
        assert await waiting(add)
        await replay.take(0, 1)
        assert await add == 1

    play(scene())


def test_the_oldest_make_room_where_that_is_asked_for(tmp_path):
    async def scene():
        replay = buffer(tmp_path, capacity=4, when_full="drop_oldest", max_staleness=9)
        for version in range(4):
            await replay.advance(version)
            await fill(replay, [2 * version, 2 * version + 1], version=version)
        assert replay.times().counts["usable"] == 5  # One call may go beyond it by its own pairs.
        assert replay.counts()["evicted"] == 3 and replay.counts()["added"] == 8
        assert {0, 1} & set(numbers(await replay.take(0, 4))) == set()

    play(scene())


def on_policy(folder: Path, *, pairs: int = 4, publish_every: int = 1, **config) -> ReplayBuffer:
    """Strictly on-policy, as a run makes it: the buffer knows what the learner takes."""
    settings = BufferConfig(max_staleness=0, **config)
    return ReplayBuffer(settings, folder=folder, seed=0, pairs_per_step=pairs, publish_every=publish_every)


async def answer(replay: ReplayBuffer, request: int, pairs: range, *, version: int, kept: int | None = None) -> int:
    """A request's pairs come; of them `kept` are not dropped."""
    verdicts = [verdict(dropped=None if kept is None or n < kept else "disagreement") for n in range(len(pairs))]
    asked = Request((), (), Slot("online", request))
    return await replay.add([candidates(n, version=version) for n in pairs], verdicts, asked)


def test_on_policy_no_more_is_generated_than_the_learner_takes_before_it_publishes(tmp_path):
    async def scene():
        replay = on_policy(tmp_path)
        await replay.advance(0)
        assert [await replay.admit(2), await replay.admit(2)] == [Slot("online", 0), Slot("online", 1)]
        third = asyncio.create_task(replay.admit(2))
        assert await waiting(third)  # four pairs are on their way
        await answer(replay, 0, range(0, 2), version=0)
        assert await waiting(third)
        await answer(replay, 1, range(2, 4), version=0, kept=1)
        assert await third  # one of the four was dropped
        take = asyncio.create_task(replay.take(0, 4))
        assert await waiting(take)
        await answer(replay, 2, range(4, 6), version=0)
        assert len(numbers(await take)) == 4
        fourth = asyncio.create_task(replay.admit(2))
        assert await waiting(fourth)  # what this version makes would be too old: the learner has taken all of its steps
        await replay.advance(1)
        assert await fourth == Slot("online", 3)
        await replay.close()

    play(scene())


@pytest.mark.parametrize("strict", [True, False])
def test_a_pair_that_is_set_aside_leaves_its_batch_and_another_takes_its_place(tmp_path, strict):
    async def scene():
        replay = on_policy(tmp_path) if strict else ReplayBuffer(BufferConfig(capacity=9), folder=tmp_path, seed=0)
        await replay.advance(0)
        if strict:
            assert await replay.admit(4)
        await answer(replay, 0, range(4), version=0)
        first = (await replay.take(0, 4) or pytest.fail()).pairs
        bad = first[1].id
        await replay.set_aside(0, [bad])
        again = asyncio.create_task(replay.take(0, 4))
        assert await waiting(again)
        if strict:
            assert await replay.admit(1) == Slot("online", 1)
        await answer(replay, 1, range(4, 5), version=0)
        second = {pair.id for pair in (await again or pytest.fail()).pairs}
        assert len(second) == 4 and {pair.id for pair in first} - second == {bad}
        assert replay.counts()["set_aside"] == 1 and replay.counts()["taken"] == 5
        await replay.close()
        opened = ReplayBuffer(BufferConfig(capacity=9), folder=tmp_path, seed=0)
        assert {pair.id for pair in (await opened.take(0, 4) or pytest.fail()).pairs} == second
        await opened.close()

    play(scene())


def test_on_policy_a_request_that_is_set_aside_is_made_up_for_and_not_asked_again(tmp_path):
    async def scene():
        replay = on_policy(tmp_path)
        await replay.advance(0)
        assert await replay.admit(4) == Slot("online", 0)
        second = asyncio.create_task(replay.admit(4))
        assert await waiting(second)
        await replay.finish(Slot("online", 0))
        assert await second == Slot("online", 1)
        await replay.close()
        again = on_policy(tmp_path)
        await again.advance(0)
        assert await again.admit(4) == Slot("online", 1)
        await again.close()

    play(scene())


def test_on_policy_more_pairs_than_the_capacity_do_not_lock_the_buffer(tmp_path):
    async def scene():
        replay = on_policy(tmp_path, capacity=4)
        await replay.advance(0)
        assert await replay.admit(3) and await replay.admit(16)
        await answer(replay, 1, range(16), version=0)  # the larger one first: the buffer is full
        await answer(replay, 0, range(16, 19), version=0)
        assert len(numbers(await replay.take(0, 4))) == 4

    play(scene())


def mixed(folder: Path, **config) -> ReplayBuffer:
    """Half of all pairs judged, half of them anchors'; the judge drops most of its own."""
    store = PairStore(folder / "anchors")
    store.append(anchors=[anchor(n, positive=n % 2 == 0) for n in range(4)], conditionings=[conditioning(0)])
    store.close()
    mix = MixConfig(online=0.5, half_online=0.5)
    settings = BufferConfig(mix=mix, anchors=str(folder / "anchors"), **config)
    return ReplayBuffer(settings, folder=folder / "buffer", seed=0, pairs_per_step=4)


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_source_of_which_little_is_kept_is_asked_for_more_often(tmp_path, max_staleness):
    async def scene():
        replay = mixed(tmp_path, capacity=4, max_staleness=max_staleness)
        await replay.advance(0)
        asked, number, steps = [], 0, 0
        while steps < 4:
            slot = await replay.admit(2)
            assert slot is not None
            asked.append(slot.source)
            number += 2
            version = 0 if max_staleness else steps
            made = [candidates(number, version=version), candidates(number + 1, version=version)]
            if slot.source == "online":  # one of four is kept
                dropped = [None if number % 4 == 2 else "disagreement", "disagreement"]
                verdicts = [verdict(dropped=why) for why in dropped]
                await replay.add(made, verdicts, Request((), (), slot))
            else:
                await replay.add(made, (), Request((), (), slot, ("anchor0", "anchor1")))
            if replay.times().counts["usable"] >= 4 and replay._enough(4):
                batch = await replay.take(steps, 4)
                assert batch is not None
                assert Counter(pair.source for pair in batch.pairs) == {"online": 2, "half-online": 2}
                steps += 1
                await replay.advance(0 if max_staleness else steps)
        assert asked.count("online") > 2 * asked.count("half-online")
        await replay.close()

    play(scene())


def test_a_buffer_that_is_opened_again_admits_nothing_while_steps_are_repeated(tmp_path):
    async def scene():
        first = on_policy(tmp_path)
        for version in range(2):
            await first.advance(version)
            assert await first.admit(4) == Slot("online", version)
            await answer(first, version, range(4 * version, 4 * version + 4), version=version)
            await first.take(version, 4)
        counts = first.counts()
        await first.close()

        again = on_policy(tmp_path)
        assert again.counts() == counts  # a run that goes on counts on
        await again.advance(0)
        admitted = asyncio.create_task(again.admit(4))
        assert await waiting(admitted)
        assert sorted(numbers(await again.take(0, 4))) == [0, 1, 2, 3]
        await again.advance(1)
        assert await waiting(admitted)
        assert sorted(numbers(await again.take(1, 4))) == [4, 5, 6, 7]
        assert await waiting(admitted)
        await again.advance(2)
        assert await admitted == Slot("online", 2)  # the two before it are finished
        await again.close()

    play(scene())


def test_a_stage_counts_its_mix_and_its_requests_from_zero(tmp_path):
    async def scene():
        first = ReplayBuffer(BufferConfig(), folder=tmp_path, seed=0, stage=0)
        await answer(first, 0, range(4), version=0)
        await first.take(0, 2)
        await first.close()
        same_stage = ReplayBuffer(BufferConfig(), folder=tmp_path, seed=0, stage=0)
        assert same_stage._waiting.is_finished(Slot("online", 0))
        assert same_stage._waiting.sums()["online"][2] == 2
        await same_stage.close()
        following = ReplayBuffer(BufferConfig(), folder=tmp_path, seed=0, stage=1)
        assert not following._waiting.is_finished(Slot("online", 0))
        assert following._waiting.sums()["online"] == (2, 2 * candidates(0).latents_a.nbytes * 2, 0)
        await following.close()

    play(scene())


def test_videos_without_a_preference_are_never_taken_for_peoples_pairs(tmp_path):
    """The folder of a run that distilled is a store, too: it may be given as `buffer.offline`, or exported."""
    store = PairStore(tmp_path / "run")
    without = dataclasses.replace(pair(0), source="unjudged", verdict=None)
    store.append([without, pair(1)], [conditioning(0)])
    assert store.catalog.preferences() == 1
    rows = {row.id: row for row in manifest_rows(store) if isinstance(row, PairRow)}
    assert (rows[without.id].choice, rows[without.id].label, rows[without.id].source) == (None, None, "offline")
    assert rows[pair(1).id].label == 1
    store.close()

    async def scene():
        mix = MixConfig(online=0.0, offline=1.0)
        replay = ReplayBuffer(BufferConfig(offline=str(tmp_path / "run"), mix=mix), folder=tmp_path / "buffer", seed=0)
        assert replay.times().counts["usable"] == 1
        batch = await replay.take(0, 1)
        assert batch is not None and [each.id for each in batch.pairs] == [pair(1).id]
        await replay.close()

    play(scene())


def test_a_closed_buffer_still_says_how_far_it_came(tmp_path):
    async def scene():
        replay = buffer(tmp_path)
        await fill(replay, range(4))
        await replay.take(7, 2)
        here = replay.cursor()
        assert (here["stored"], here["drawn"]) == (4, 7)
        await replay.close()
        assert replay.cursor() == here

    play(scene())
