from pathlib import Path
from typing import Any

import numpy as np
import pytest

from buffers.people.labelled_pairs import LabelledPair
from configs.ranker import RankerTrainingConfig
from media.video_write import write_mp4
from ranker.training.examples import ExampleStream
from tests.cluster.commands.ranker.videos import damaged


def config(**changed: Any) -> RankerTrainingConfig:
    given = {"name": "test", "out": "unused", "path": "unused", "pairs": "unused", "frames": 5, "pairs_per_step": 2}
    return RankerTrainingConfig.model_validate(given | {"slow_motion": {"share": {}}} | changed)


def pairs(folder: Path, count: int) -> list[LabelledPair]:
    """Videos as bright as their number, brightening slowly; odd pairs prefer b."""
    found = []
    for index in range(count):
        files = []
        for side in (0, 1):
            video = np.full((17, 16, 16, 3), 60 * side + 8 * index, np.uint8)
            video += np.arange(17, dtype=np.uint8)[:, None, None, None] * 4
            files.append(folder / f"{index}{side}.mp4")
            write_mp4(files[-1], video, fps=8.0)
        answer: dict[str, Any] = {"label": 2} if index % 2 else {"choice": "a"}
        found.append(LabelledPair(a=files[0], b=files[1], domain="human", **answer))
    return found


def test_every_pair_comes_once_an_epoch_in_both_orders(tmp_path: Path) -> None:
    stream = ExampleStream(pairs(tmp_path, 4), config())
    seen = []
    for step in range(4):  # two epochs
        given = stream.take(step)
        assert len(given) == 4
        for example, turned in zip(given[::2], given[1::2], strict=True):
            assert turned.question == example.question.turned()
            assert {example.right, turned.right} in ({(1, 3), (2, 4)}, {(2,), (1,)})
            seen.append(int(example.question.first.frames[0].mean() / 8))
    assert sorted(seen[:4]) == sorted(seen[4:]) == [0, 1, 2, 3]


def test_the_schedule_is_a_function_of_seed_and_step_and_ranks_take_their_shares(tmp_path: Path) -> None:
    given = pairs(tmp_path, 5)
    slow = {"share": {"human": 0.5}, "factors": [2.0]}
    one = ExampleStream(given, config(slow_motion=slow, pairs_per_step=4))
    two = ExampleStream(given, config(slow_motion=slow, pairs_per_step=4, num_workers=2))
    for step in (0, 7):
        whole = one.take(step)
        shared = two.take(step, rank=0) + two.take(step, rank=1)
        assert [example.right for example in whole] == [example.right for example in shared]
        for ours, theirs in zip(whole, shared, strict=True):
            np.testing.assert_array_equal(ours.question.second.frames, theirs.question.second.frames)


def test_slow_motion_is_mined_from_the_preferred_video(tmp_path: Path) -> None:
    stream = ExampleStream(pairs(tmp_path, 2), config(slow_motion={"share": {"human": 1.0}, "factors": [2.0]}))
    for step in range(3):
        for example in stream.take(step)[::2]:
            assert example.right == (3,)
            standard, slow = (
                footage.frames.mean((1, 2, 3)) for footage in (example.question.first, example.question.second)
            )
            # Nine of 17 frames, which brighten by 4 each, would take 17 for the standard part: five frames of 17 / 4.
            assert np.ptp(standard) == pytest.approx(2 * np.ptp(slow), abs=4) and np.ptp(slow) > 8
            # Pair 0 prefers its a (brightness 0), pair 1 its b (brightness 68).
            assert min(abs(standard[0] - 0), abs(standard[0] - 68)) < 5


def test_the_share_of_slow_motion_is_what_was_asked_for(tmp_path: Path) -> None:
    stream = ExampleStream(pairs(tmp_path, 1), config(slow_motion={"share": {"human": 0.25}, "factors": [2.0]}))
    mined = sum(stream.take(step)[place].right == (3,) for step in range(60) for place in (0, 2))
    assert 15 <= mined <= 45  # of 120, 30 expected, three deviations either way


def test_a_stream_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no pair of this domain"):
        ExampleStream([], config())
    with pytest.raises(ValueError, match="pairs_per_step = 2 does not divide among 3"):
        ExampleStream(pairs(tmp_path, 1), config(num_workers=3))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_damaged_video_is_replaced_and_nothing_else_changes(tmp_path: Path, share: float) -> None:
    given, settings = (
        pairs(tmp_path, 5),
        {"pairs_per_step": 4, "slow_motion": {"share": {"human": share}, "factors": [2.0]}},
    )
    whole = {step: ExampleStream(given, config(**settings)).take(step) for step in range(5)}
    bad = given[2].a if given[2].a_is_better else given[2].b
    damaged(bad)
    stream = ExampleStream(given, config(**settings))
    one, two = (ExampleStream(given, config(**settings, num_workers=2)) for _ in range(2))
    changed = []
    for step, before in whole.items():
        after = stream.take(step)
        assert len(after) == len(before) == 8
        shared = one.take(step, rank=0) + two.take(step, rank=1)
        for was, now, on_two in zip(before, after, shared, strict=True):
            np.testing.assert_array_equal(now.question.second.frames, on_two.question.second.frames)
            changed.append(not np.array_equal(was.question.second.frames, now.question.second.frames))
    assert sum(changed) == 8  # 20 places of 4 epochs: four times the pair, in both orders
    (why,) = stream.left_out
    assert why.startswith(str(bad))


def test_if_no_pair_can_be_read_the_step_is_refused(tmp_path: Path) -> None:
    given = pairs(tmp_path, 2)
    for pair in given:
        damaged(pair.a)
    with pytest.raises(ValueError, match=r"none of the 2 pairs can be read, first .*\.mp4"):
        ExampleStream(given, config()).take(0)
