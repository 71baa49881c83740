import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from buffers.store.pair_store import PairStore
from buffers.store.places import LOCK, Folder, Place, place_of
from tests.buffers.samples import anchor, conditioning, pair, same

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A real pyarrow filesystem that is not taken for a local folder: streams, no locks, no renaming, no mapping."""
    (tmp_path / "bucket").mkdir()
    filesystem = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    monkeypatch.setattr("buffers.store.pair_store.place_of", lambda where: Place(filesystem, "bucket/store", uri=where))
    return tmp_path / "bucket" / "store"


def test_a_store_on_another_filesystem_is_the_same_store(remote):
    store = PairStore("s3://bucket/store", encoded_by={"vae": "wan@1"})
    store.append([pair(0), pair(1)], [conditioning(0)], [anchor(1)])
    store.close()
    assert LOCK not in {path.name for path in remote.iterdir()}
    again = PairStore("s3://bucket/store")
    assert not again.recovery and again.encoded_by == {"vae": "wan@1"}
    again.append([pair(2)])
    reader = PairStore("s3://bucket/store", write=False)
    assert same(tuple(reader.read([pair(n).id for n in (2, 0, 1)])), (pair(2), pair(0), pair(1)))
    assert same(reader.anchors(["anchor1"])[0], anchor(1))
    assert reader.verify() == {}
    (remote / "latents-00000002.arrow").write_bytes(b"torn")
    assert list(PairStore("s3://bucket/store", write=False).recovery.missing) == ["latents-00000002.arrow"]


def test_what_no_commit_names_is_set_aside_there_too(remote):
    PairStore("s3://bucket/store").append([pair(0)], [conditioning(0)])
    (remote / LOCK).unlink()
    (remote / "pairs-00000002.arrow").write_bytes(b"torn")
    store = PairStore("s3://bucket/store")
    assert list(store.recovery.set_aside) == ["pairs-00000002.arrow"] and len(store) == 1
    assert (remote / "set_aside" / "pairs-00000002.arrow").read_bytes() == b"torn"


def test_a_second_writer_is_refused_unless_the_first_is_known_to_be_gone(remote):
    remote.mkdir()
    lock, host = remote / LOCK, socket.gethostname()
    lock.write_text(json.dumps({"host": "elsewhere", "process": 1}))
    with pytest.raises(BlockingIOError, match=r"s3://bucket/store: another writer \(process 1 on elsewhere\)"):
        PairStore("s3://bucket/store")
    lock.write_text(json.dumps({"host": host, "process": os.getppid()}))
    with pytest.raises(BlockingIOError, match=f"process {os.getppid()} on"):
        PairStore("s3://bucket/store")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock.write_text(json.dumps({"host": host, "process": gone.pid}))
    PairStore("s3://bucket/store").close()
    assert not lock.exists()


def test_a_uri_says_where(tmp_path):
    assert isinstance(place_of(str(tmp_path)), Folder)
    found = place_of(f"file://{tmp_path}/store")
    assert isinstance(found, Folder) and found.path == tmp_path / "store"
    with pytest.raises(ValueError, match="carrier://pigeon is no place for a store"):
        place_of("carrier://pigeon")
