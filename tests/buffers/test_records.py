import dataclasses
import inspect
import pickle

import numpy as np
import pytest

from buffers import records
from buffers.records import (
    Batch,
    CandidateVideos,
    Condition,
    Judged,
    Receipt,
    Request,
    RoleTimes,
    Scores,
    ShownVideos,
    Slot,
    Snapshot,
    Verdict,
)
from tests.buffers.samples import anchor, candidates, conditioning, pair, same, tensor, verdict

VIDEO = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
CONDITION = Condition("c1", "a red circle moving left", "general")

EXAMPLES = [
    tensor(1),
    CONDITION,
    Condition("c2", "no domain"),
    conditioning(1),
    anchor(1),
    Request((CONDITION,), ((11, 12),)),
    Slot("half-online", 3),
    candidates(1, version=3),
    CandidateVideos(CONDITION, VIDEO, VIDEO[::-1], 8.0, 3),
    ShownVideos(CONDITION, (VIDEO, VIDEO[::-1], VIDEO), 8.0, 3, 0.25),
    verdict(),
    Scores(0.31, 0.84),
    Scores(0.5, 0.5, "tie"),
    verdict(2, dropped="disagreement", agreed=False),
    pair(1, version=2),
    dataclasses.replace(pair(1), verdict=None, source="offline"),
    Judged("c0-1", "c0-2", verdict()),
    Batch(7, (pair(1), pair(2)), {"c0": conditioning(0)}, (0, 1)),
    Snapshot(3, {"transformer.blocks.0.lora_A": tensor(4)}, "9f2c"),
    Receipt(3, 1, "9f2c"),
    RoleTimes(1.0, 2.0, {"videos": 8}),
]


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_every_record_survives_pickling(record):
    assert same(pickle.loads(pickle.dumps(record, protocol=5)), record)


def test_no_record_is_left_out_of_these_tests():
    defined = {c for _, c in inspect.getmembers(records, dataclasses.is_dataclass) if c.__module__ == records.__name__}
    assert defined == {type(example) for example in EXAMPLES}


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_records_are_frozen(record):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, None)


def test_same_tells_records_apart():
    assert not same(pair(1), pair(2))
    assert not same(tensor(1), dataclasses.replace(tensor(1), shape=(48,)))
    assert not same(pair(1), dataclasses.replace(pair(1), verdict=None))


@pytest.mark.parametrize(("label", "a_is_chosen"), [(1, True), (2, False), (3, True), (4, False)])
def test_confidence_is_the_share_of_the_side_that_the_label_names(label, a_is_chosen):
    judged = Verdict(label, (0.5, 0.1, 0.25, 0.15), 1.0, True, 1, None, "human", "1", "r")
    assert judged.a_is_chosen is a_is_chosen
    assert judged.confidence == pytest.approx(0.75 if a_is_chosen else 0.25)


@pytest.mark.parametrize("label", [1, 2, 3, 4])
def test_a_swapped_verdict_names_the_same_video(label):
    given = Verdict(label, (0.5, 0.1, 0.25, 0.15), 1.0, True, 1, None, "human", "1", "r")
    swapped = given.swapped()
    assert swapped.a_is_chosen is not given.a_is_chosen and swapped.swapped() == given
    assert (swapped.label in (1, 2)) is (label in (1, 2)) and swapped.confidence == given.confidence


@pytest.mark.parametrize("first", [None, 1, 2])
@pytest.mark.parametrize("then", [1, 4])
def test_a_correction_is_about_the_same_two_videos_in_their_order(first, then):
    """A and B stay who they are, whoever is chosen."""
    judged = Judged("a", "b", verdict(first)) if first == 1 else Judged("b", "a", verdict(first) if first else None)
    a, b = judged.in_order
    assert (a, b) == (("b", "a") if first is None else ("a", "b"))
    corrected = judged.corrected(verdict(then))
    assert corrected.in_order == (a, b)
    assert corrected.chosen_id == (a if then == 1 else b)
