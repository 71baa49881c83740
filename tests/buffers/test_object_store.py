"""A store in a bucket: pyarrow's own S3 client against a server that speaks the protocol, on this machine."""

import dataclasses
from collections.abc import Iterator

import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer

from buffers.store import PairStore
from tests.buffers.samples import anchor, conditioning, pair, same, tensor, verdict


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of a folder in it, with a hole for the folder's name."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("EC2_METADATA_DISABLED", "true")):
            patch.setenv(f"AWS_{name}", value)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        where = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        pafs.FileSystem.from_uri(f"s3://bucket/?{where}&allow_bucket_creation=true")[0].create_dir("bucket")
        yield f"s3://bucket/{{}}?{where}"
        server.stop()


def test_a_store_in_a_bucket_is_written_read_corrected_and_verified(bucket: str):
    where = bucket.format("store")
    store = PairStore(where, made_for={"VAE": "wan@1"})
    store.append([pair(0), pair(1)], [conditioning(0)], [anchor(1)])
    large = dataclasses.replace(pair(2), chosen=tensor(7, shape=(16, 21, 30, 52)))
    store.append([large])
    store.correct({pair(1).id: verdict(2)})
    with pytest.raises(BlockingIOError, match="another writer"):
        PairStore(where)
    store.close()
    reader = PairStore(where, write=False, made_for={"VAE": "wan@1"})
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
