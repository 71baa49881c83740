import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from buffers.records import Condition, EncodedCondition, Scores, TensorData
from buffers.store import arrow
from buffers.store.pair_store import PairStore
from buffers.store.places import Folder
from buffers.store.segments import Segments, write_segment
from tests.buffers.samples import anchor, conditioning, pair, same, tensor, verdict

EMPTY = TensorData("float32", (0, 3), np.empty(0, np.uint8))

PAIRS = [
    pair(1),
    pair(2, version=7, shape=(2, 5, 3, 1)),
    dataclasses.replace(pair(3), verdict=None, source="offline"),
    dataclasses.replace(pair(4), verdict=verdict(4, dropped="low_confidence", agreed=False, first_shown=2)),
    dataclasses.replace(pair(7), verdict=None, scores=Scores(0.25, 0.75)),
    dataclasses.replace(pair(8), verdict=None, scores=Scores(1.0, 1.0, "tie")),
    dataclasses.replace(pair(5), id="ünï-1-2", source="half-online"),
    dataclasses.replace(pair(6), chosen=EMPTY, rejected=TensorData("float32", (), np.zeros(4, np.uint8))),
]
CONDITIONINGS = [
    conditioning(0),
    EncodedCondition(Condition("c'1", "ünï"), tensor(1)),
    EncodedCondition(Condition("c2", "", "human"), EMPTY),
]


def test_every_stored_record_survives_the_file(tmp_path):
    store = PairStore(tmp_path)
    store.append(PAIRS, CONDITIONINGS, [anchor(1), anchor(2, positive=False)])
    store.close()
    again = PairStore(tmp_path)
    assert same(tuple(again.read([p.id for p in PAIRS])), tuple(PAIRS))
    ids = [c.condition_id for c in CONDITIONINGS]
    assert same(again.conditionings(ids), dict(zip(ids, CONDITIONINGS, strict=True)))
    assert same(tuple(again.anchors(["anchor2", "anchor1"])), (anchor(2, positive=False), anchor(1)))


def test_a_foreign_reader_finds_the_bytes(tmp_path):
    """Read with pyarrow alone: the bytes of the latents and the schema version are where the schema says."""
    PairStore(tmp_path).append([pair(1), pair(2)], [conditioning(0)])
    latents = pa.ipc.open_file(tmp_path / "latents-00000001.arrow").read_all()
    assert latents.schema.metadata == {b"apogee.schema_version": b"4", b"apogee.kind": b"latents"}
    held = dict(zip(latents["id"].to_pylist(), latents["latents"].to_pylist(), strict=True))
    assert held["c0-4"]["data"] == pair(2).chosen.data.tobytes() and held["c0-4"]["shape"] == [4, 3, 2, 2]
    facts = pa.ipc.open_file(tmp_path / "pairs-00000001.arrow").read_all().to_pylist()
    assert [row["chosen_id"] for row in facts] == ["c0-2", "c0-4"]
    assert facts[0]["verdict"]["probabilities"] == [0.9, 0.04, 0.05, 0.01]
    assert facts[0]["bytes"] == 2 * 4 * 3 * 2 * 2 * 2


def test_reading_copies_no_latents_and_they_outlive_their_file(tmp_path):
    big = TensorData("bfloat16", (16, 64, 1024), np.ones(2 * 2**20, np.uint8))
    records = [dataclasses.replace(pair(n), chosen=big, rejected=big) for n in range(4)]
    store = PairStore(tmp_path)
    store.append(records, [conditioning(0)])
    pairs = store.read([records[3].id, records[1].id])
    assert {_mapped_file(pair.chosen.data) for pair in pairs} == {tmp_path / "latents-00000001.arrow"}
    (tmp_path / "latents-00000001.arrow").unlink()
    store.close()
    assert same(tuple(pairs), (records[3], records[1]))
    with pytest.raises(ValueError, match="read-only"):
        pairs[0].chosen.data[0] = 1


def test_a_store_of_schema_version_2_is_read_and_gone_on_with(tmp_path):
    """`version2/` was written by the last Apogee of that version: two pairs, one of them corrected, and an anchor."""
    shutil.copytree(Path(__file__).parent / "version2", tmp_path / "store")
    store = PairStore(tmp_path / "store", encoded_by={"vae": "1f"})
    assert not store.recovery and store.verify() == {}
    corrected = dataclasses.replace(
        pair(0), chosen_id="c0-1", rejected_id="c0-0", chosen=tensor(1), rejected=tensor(0), verdict=verdict(2)
    )
    unjudged = dataclasses.replace(pair(1, condition=1), verdict=None)
    assert same(tuple(store.read([pair(0).id, unjudged.id])), (corrected, unjudged))
    assert same(tuple(store.anchors(["anchor0"])), (anchor(0),))
    scored = dataclasses.replace(pair(2), verdict=None, scores=Scores(0.25, 0.75))
    store.append([scored])
    store.close()
    again = PairStore(tmp_path / "store", write=False)
    assert same(tuple(again.read([scored.id, unjudged.id])), (scored, unjudged))


def test_what_a_condition_has_of_its_first_frame_comes_back(tmp_path):
    framed = dataclasses.replace(
        conditioning(1),
        first_frame=TensorData("uint8", (2, 2, 3), np.arange(12, dtype=np.uint8)),
        frame_latents=tensor(5),
    )
    clip = dataclasses.replace(framed, condition=Condition("c9", "with more"), frame_embeds=tensor(6))
    large = TensorData("bfloat16", (20, 64, 1024), np.ones(20 * 2**17, np.uint8))
    last = dataclasses.replace(framed, condition=Condition("c10", "large"), frame_latents=large)
    store = PairStore(tmp_path)
    store.append(conditionings=[conditioning(0), framed, clip, last])
    store.close()
    held = PairStore(tmp_path, write=False).conditionings(
        [framed.condition_id, "c9", "c10", conditioning(0).condition_id]
    )
    assert same(tuple(held.values()), (framed, clip, last, conditioning(0)))


def test_other_arrow_files_are_refused(tmp_path):
    place = Folder(tmp_path)
    foreign = pa.schema([("id", pa.string())])
    strange = write_segment(place, "x.arrow", [], kind="pairs", schema=foreign)
    with pytest.raises(ValueError, match=r"x\.arrow is no Apogee segment"):
        Segments(place).rows(strange, [])
    batch = arrow.conditionings_batch([conditioning(1)])
    other = write_segment(place, "c.arrow", [batch], kind="pairs", schema=arrow.CONDITIONINGS)
    with pytest.raises(ValueError, match=r"c\.arrow does not have the columns of a pairs segment"):
        Segments(place).rows(other, [0])


def test_a_newer_schema_is_refused(tmp_path):
    newer = arrow.LATENTS.with_metadata({**arrow.LATENTS.metadata, b"apogee.schema_version": b"5"})
    row = arrow.latents_batch({"a": tensor(1)}).replace_schema_metadata(newer.metadata)
    segment = write_segment(Folder(tmp_path), "new.arrow", [row], kind="latents", schema=newer)
    with pytest.raises(ValueError, match=r"new\.arrow has schema version 5, this Apogee reads up to 4"):
        Segments(Folder(tmp_path)).rows(segment, [0])


@pytest.mark.parametrize(
    "wrong",
    [
        TensorData("bfloat16", (7,), np.zeros(15, np.uint8)),
        TensorData("float32", (0,), np.zeros(4, np.uint8)),
        TensorData("float32", (4,), np.zeros(4, np.float32)),
    ],
)
def test_bytes_that_cannot_have_this_shape_are_not_stored(tmp_path, wrong):
    store = PairStore(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"latents c0-3: .* cannot be"):
        store.append([dataclasses.replace(pair(1), rejected=wrong)], [conditioning(0)])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert len(store) == 0


def test_strided_bytes_are_stored_in_order(tmp_path):
    data = tensor(1).data
    store = PairStore(tmp_path)
    store.append([dataclasses.replace(pair(1), chosen=TensorData("uint8", (48,), data[::2]))], [conditioning(0)])
    assert store.read([pair(1).id])[0].chosen.data.tolist() == data[::2].tolist()


def _mapped_file(data: np.ndarray) -> Path | None:
    """The file that the kernel has mapped where the array lies."""
    start = data.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, _, _, _, _, *file = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in place.split("-"))
        if low <= start < high:
            return Path(file[0]) if file else None
    return None
