"""A store in a bucket: pyarrow's own S3 client against a server that speaks the protocol, on this machine."""

import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pyarrow.fs as pafs
import pytest

from buffers.store.pair_store import PairStore
from tests.buffers.samples import anchor, conditioning, pair, same, tensor, verdict


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of a folder in it, with a hole for the folder's name.

    The server is a process of its own: flask's globals raise where other libraries look through all loaded modules.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("EC2_METADATA_DISABLED", "true")):
            patch.setenv(f"AWS_{name}", value)
        where = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        try:
            _wait_until_up(port)
            pafs.FileSystem.from_uri(f"s3://bucket/?{where}&allow_bucket_creation=true")[0].create_dir("bucket")
            yield f"s3://bucket/{{}}?{where}"
        finally:
            server.kill()
            server.wait()


def _wait_until_up(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise AssertionError("the server did not start within a minute")


def test_a_store_in_a_bucket_is_written_read_corrected_and_verified(bucket: str):
    where = bucket.format("store")
    store = PairStore(where, encoded_by={"VAE": "wan@1"})
    store.append([pair(0), pair(1)], [conditioning(0)], [anchor(1)])
    large = dataclasses.replace(pair(2), chosen=tensor(7, shape=(16, 21, 30, 52)))
    store.append([large])
    store.correct({pair(1).id: verdict(2)})
    with pytest.raises(BlockingIOError, match="another writer"):
        PairStore(where)
    store.close()
    reader = PairStore(where, write=False, encoded_by={"VAE": "wan@1"})
    assert not reader.recovery and len(reader) == 3
    first, corrected, third = reader.read([pair(n).id for n in range(3)])
    assert same((first, third), (pair(0), large))
    assert corrected.chosen_id == pair(1).rejected_id and same(reader.anchors(["anchor1"])[0], anchor(1))
    assert reader.verify() == {}
    reader.close()


def test_what_a_killed_writer_left_in_a_bucket_is_set_aside_and_a_lost_segment_is_named(bucket: str):
    where = bucket.format("torn")
    store = PairStore(where)
    store.append([pair(0)], [conditioning(0)])
    store.append([pair(1)])
    store.close()
    filesystem, path = pafs.FileSystem.from_uri(where)
    with filesystem.open_output_stream(f"{path}/pairs-00000003.arrow") as file:
        file.write(b"torn")
    filesystem.delete_file(f"{path}/latents-00000002.arrow")
    again = PairStore(where)
    assert list(again.recovery.set_aside) == ["pairs-00000003.arrow"]
    assert list(again.recovery.missing) == ["latents-00000002.arrow"]
    assert same(again.read([pair(0).id])[0], pair(0))
    again.append([pair(2)])
    assert same(again.read([pair(2).id])[0], pair(2))
    again.close()
