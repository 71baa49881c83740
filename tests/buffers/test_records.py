import dataclasses
import inspect
import pickle

import numpy as np
import pytest

from buffers import records
from buffers.records import (
    Batch,
    Clips,
    Condition,
    Measurement,
    Receipt,
    Request,
    RoleTimes,
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
    candidates(1, version=3),
    Clips(CONDITION, VIDEO, VIDEO[::-1], 8.0, 3),
    verdict(),
    verdict(2, dropped="disagreement", agreed=False),
    pair(1, version=2),
    dataclasses.replace(pair(1), verdict=None, source="offline"),
    Batch(7, (pair(1), pair(2)), {"c0": conditioning(0)}, (0, 1)),
    Snapshot(3, {"transformer": {"blocks.0.lora_A": tensor(4)}}, "9f2c"),
    Receipt(3, {"transformer": 1}, "9f2c"),
    Measurement(True, 1.5, "jump"),
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
