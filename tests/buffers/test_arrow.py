import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from buffers import arrow
from buffers.records import Conditioning, Pair, TensorData
from buffers.segments import file_sha256, read_rows, write_segment
from tests.buffers.samples import conditioning, pair, same, tensor, verdict

EMPTY = TensorData("float32", (0, 3), np.empty(0, np.uint8))

STORED: list[Pair | Conditioning] = [
    pair(1),
    pair(2, version=7, shape=(2, 5, 3, 1)),
    dataclasses.replace(pair(3), verdict=None, source="offline"),
    dataclasses.replace(pair(4), verdict=verdict(4, dropped="low_confidence", agreed=False, first_shown=2)),
    dataclasses.replace(pair(5), chosen_seed=2**63 - 1, rejected_seed=-(2**63), id="ünï-1-2", source="half-online"),
    dataclasses.replace(pair(6), chosen=EMPTY, rejected=TensorData("float32", (), np.zeros(4, np.uint8))),
    conditioning(3),
]


@pytest.mark.parametrize("record", STORED, ids=lambda record: type(record).__name__)
def test_every_stored_record_survives_a_file(record, tmp_path):
    path = tmp_path / "one.arrow"
    if isinstance(record, Pair):
        write_segment(path, [arrow.pair_row(pair(99)), arrow.pair_row(record)], schema=arrow.PAIRS)
        back = arrow.row_pair(read_rows(path, [1], schema=arrow.PAIRS)[0])
    else:
        write_segment(path, [arrow.conditioning_row(record)], schema=arrow.CONDITIONINGS)
        back = arrow.row_conditioning(read_rows(path, [0], schema=arrow.CONDITIONINGS)[0])
    assert same(back, record)


def test_a_foreign_reader_finds_the_bytes(tmp_path):
    """Read with pyarrow alone: the bytes of the latents and the schema version are where the schema says."""
    write_segment(tmp_path / "p.arrow", [arrow.pair_row(pair(1)), arrow.pair_row(pair(2))], schema=arrow.PAIRS)
    table = pa.ipc.open_file(tmp_path / "p.arrow").read_all()
    assert table.schema.metadata == {b"apogee.schema_version": b"1", b"apogee.kind": b"pairs"}
    assert [chunk["data"] for chunk in table["chosen"].to_pylist()] == [
        pair(1).chosen.data.tobytes(),
        pair(2).chosen.data.tobytes(),
    ]
    assert table["verdict"][0].as_py()["probabilities"] == [0.9, 0.04, 0.05, 0.01]


def test_the_returned_checksum_is_that_of_the_file(tmp_path):
    path = tmp_path / "p.arrow"
    assert write_segment(path, [arrow.pair_row(pair(1))], schema=arrow.PAIRS) == file_sha256(path)


def test_reading_copies_no_latents_and_keeps_no_file_open(tmp_path):
    big = TensorData("bfloat16", (16, 64, 1024), np.ones(2 * 2**20, np.uint8))
    path = tmp_path / "p.arrow"
    record = dataclasses.replace(pair(1), chosen=big)
    write_segment(path, [arrow.pair_row(record)] * 4, schema=arrow.PAIRS)
    before = pa.total_allocated_bytes()
    pairs = [arrow.row_pair(row) for row in read_rows(path, [3, 1], schema=arrow.PAIRS)]
    assert pa.total_allocated_bytes() - before < 100_000
    path.unlink()  # What was read outlives its file.
    assert all(same(found, record) for found in pairs)
    with pytest.raises(ValueError, match="read-only"):
        pairs[0].chosen.data[0] = 1


def test_a_newer_schema_is_refused(tmp_path):
    newer = arrow.PAIRS.with_metadata({**arrow.PAIRS.metadata, b"apogee.schema_version": b"2"})
    row = arrow.pair_row(pair(1)).replace_schema_metadata(newer.metadata)
    write_segment(tmp_path / "new.arrow", [row], schema=newer)
    with pytest.raises(ValueError, match=r"new\.arrow has schema version 2, this Apogee reads up to 1"):
        read_rows(tmp_path / "new.arrow", [0], schema=arrow.PAIRS)


def test_other_arrow_files_are_refused(tmp_path):
    write_segment(tmp_path / "x.arrow", [], schema=pa.schema([("id", pa.string())]))
    with pytest.raises(ValueError, match=r"x\.arrow is no Apogee segment"):
        read_rows(tmp_path / "x.arrow", [], schema=arrow.PAIRS)
    write_segment(tmp_path / "c.arrow", [arrow.conditioning_row(conditioning(1))], schema=arrow.CONDITIONINGS)
    with pytest.raises(ValueError, match=r"c\.arrow does not have the columns of a pairs segment"):
        read_rows(tmp_path / "c.arrow", [0], schema=arrow.PAIRS)


@pytest.mark.parametrize(
    "wrong",
    [
        TensorData("bfloat16", (7,), np.zeros(15, np.uint8)),
        TensorData("float32", (0,), np.zeros(4, np.uint8)),
        TensorData("float32", (4,), np.zeros(4, np.float32)),
    ],
)
def test_bytes_that_cannot_have_this_shape_are_not_stored(wrong):
    with pytest.raises(ValueError, match="pair c0-2-3, rejected"):
        arrow.pair_row(dataclasses.replace(pair(1), rejected=wrong))


def test_strided_bytes_are_stored_in_order():
    data = tensor(1).data
    record = dataclasses.replace(pair(1), chosen=TensorData("uint8", (48,), data[::2]))
    assert arrow.row_pair(arrow.pair_row(record)).chosen.data.tolist() == data[::2].tolist()
