import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from buffers import segments
from buffers.store import MANIFEST, SET_ASIDE, PairStore
from tests.buffers.samples import conditioning, pair, same

ROOT = Path(__file__).resolve().parents[2]


def filled(folder: Path, *, appends: int = 3) -> PairStore:
    """Two pairs of one condition per append: pairs 0 1 | 2 3 | 4 5 of conditions 0 | 1 | 0."""
    store = PairStore(folder)
    for number in range(appends):
        condition = number % 2
        pairs = [pair(2 * number + i, version=number, condition=condition) for i in (0, 1)]
        store.append(pairs, [conditioning(condition)] * 2)
    return store


def expected(number: int):
    return pair(number, version=number // 2, condition=(number // 2) % 2)


def ids(store: PairStore) -> list[str]:
    return [stored.id for stored in store.stored()]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".arrow", ".tmp"))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_what_is_appended_is_read_back_now_and_after_reopening(tmp_path):
    store = filled(tmp_path)
    wanted = [expected(n).id for n in (4, 0, 3)]
    assert same(tuple(store.read(wanted)), tuple(expected(n) for n in (4, 0, 3)))
    assert same(store.conditionings(["c1", "c0", "c1"]), {"c1": conditioning(1), "c0": conditioning(0)})
    store.close()
    again = PairStore(tmp_path)
    assert not again.recovery
    assert ids(again) == [expected(n).id for n in range(6)]
    assert same(tuple(again.read(wanted)), tuple(expected(n) for n in (4, 0, 3)))
    assert [(s.policy_version, s.condition_id) for s in again.stored()][2:4] == [(1, "c1")] * 2
    assert again.verify() == []


def test_a_condition_is_stored_once(tmp_path):
    filled(tmp_path).close()
    assert [name for name in files(tmp_path) if name.startswith("conditionings")] == [
        "conditionings-00000001.arrow",
        "conditionings-00000002.arrow",
    ]
    again = PairStore(tmp_path)
    again.append([pair(9, condition=1)], [conditioning(1)])
    assert files(tmp_path)[-1] == "pairs-00000004.arrow"
    assert sum(name.startswith("conditionings") for name in files(tmp_path)) == 2


def test_pairs_must_be_new_and_have_a_conditioning(tmp_path):
    store = filled(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"pair c0-0-1 is in .* already"):
        store.append([expected(0)], [])
    with pytest.raises(ValueError, match="pair c0-40-41 is in"):
        store.append([pair(20), pair(20)], [])
    with pytest.raises(ValueError, match="pair c7-40-41 has no conditioning: c7"):
        store.append([pair(20, condition=7)], [conditioning(6)])
    assert files(tmp_path) == before and len(store) == 6


def test_an_unknown_pair_is_a_key_error(tmp_path):
    with pytest.raises(KeyError, match="c0-98-99"):
        filled(tmp_path).read(["c0-98-99"])


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    store = filled(tmp_path)
    attempt = [sys.executable, "-c", f"from buffers.store import *; PairStore(Path({str(tmp_path)!r}))"]
    refused = subprocess.run(attempt, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "BlockingIOError" in refused.stderr and str(tmp_path) in refused.stderr
    assert f"(process {os.getpid()})" in refused.stderr
    with pytest.raises(BlockingIOError, match="another writer"):  # The same holds inside one process.
        PairStore(tmp_path)
    store.append([pair(50)], [])
    store.close()
    assert subprocess.run(attempt, cwd=ROOT, check=False).returncode == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        PairStore(tmp_path / "file")


@pytest.mark.parametrize("left", [0, 10, 500, -1])
def test_a_truncated_segment_is_set_aside_and_the_others_stay(tmp_path, left):
    filled(tmp_path).close()
    torn = tmp_path / "pairs-00000002.arrow"
    os.truncate(torn, left if left >= 0 else torn.stat().st_size - 1)
    store = PairStore(tmp_path)
    assert list(store.recovery.set_aside) == [torn.name]
    assert "bytes instead of" in store.recovery.set_aside[torn.name]
    assert not torn.exists() and (tmp_path / SET_ASIDE / torn.name).exists()
    assert ids(store) == [expected(n).id for n in (0, 1, 4, 5)]
    assert same(store.read([expected(5).id])[0], expected(5))
    store.close()
    assert PairStore(tmp_path).recovery.missing == (torn.name,)  # Lost pairs are named as long as they are missing.


def test_unlisted_and_unfinished_segments_are_set_aside_and_their_numbers_not_used_again(tmp_path):
    filled(tmp_path).close()
    (tmp_path / "pairs-00000009.arrow").write_bytes((tmp_path / "pairs-00000001.arrow").read_bytes())
    (tmp_path / "conditionings-00000004.arrow.tmp").write_bytes(b"ARROW1")
    (tmp_path / "notes.txt").write_text("mine")
    store = PairStore(tmp_path)
    assert sorted(store.recovery.set_aside) == ["conditionings-00000004.arrow.tmp", "pairs-00000009.arrow"]
    assert len(store) == 6
    assert (tmp_path / "notes.txt").exists()
    store.close()
    store = PairStore(tmp_path)
    assert not store.recovery
    store.append([pair(50)], [])
    assert files(tmp_path)[-1] == "pairs-00000010.arrow"


def test_a_deleted_segment_is_named(tmp_path, caplog):
    filled(tmp_path).close()
    (tmp_path / "pairs-00000001.arrow").unlink()
    store = PairStore(tmp_path)
    assert store.recovery.missing == ("pairs-00000001.arrow",)
    assert "pairs-00000001.arrow" in caplog.text and str(tmp_path) in caplog.text
    assert ids(store) == [expected(n).id for n in (2, 3, 4, 5)]


def test_pairs_without_their_conditioning_are_left_out_and_named(tmp_path):
    filled(tmp_path).close()
    (tmp_path / "conditionings-00000002.arrow").unlink()
    store = PairStore(tmp_path)
    assert store.recovery.orphans == (expected(2).id, expected(3).id)
    assert expected(2).id not in store


@pytest.mark.parametrize("where", ["header", "latents", "footer"])
def test_a_flipped_byte_is_found_before_the_pair_is_handed_out(tmp_path, where):
    filled(tmp_path).close()
    path = tmp_path / "pairs-00000002.arrow"
    position = {
        "header": 3,
        "latents": path.read_bytes().index(expected(3).rejected.data.tobytes()) + 20,
        "footer": path.stat().st_size - 12,
    }[where]
    flip(path, position)
    store = PairStore(tmp_path)
    assert store.verify() == [path.name]
    with pytest.raises(ValueError, match=r"pairs-00000002\.arrow is damaged"):
        store.read([expected(3).id])
    assert same(store.read([expected(4).id])[0], expected(4))


def test_a_manifest_cut_off_anywhere_loses_only_its_last_line(tmp_path):
    filled(tmp_path / "whole").close()
    whole = (tmp_path / "whole" / MANIFEST).read_bytes()
    last = whole.rstrip().rfind(b"\n") + 1
    for end in (last, last + 1, len(whole) - 1):
        folder = tmp_path / f"cut{end}"
        filled(folder).close()
        os.truncate(folder / MANIFEST, end)
        store = PairStore(folder)
        assert ids(store) == [expected(n).id for n in range(4)]
        assert list(store.recovery.set_aside) == ["pairs-00000003.arrow"]
        assert bool(store.recovery.manifest) is (end > last)
        store.append([expected(4)], [])
        store.close()
        again = PairStore(folder)
        assert not again.recovery and len(again) == 5


@pytest.mark.parametrize("name", ["../pairs-00000001.arrow", "/etc/passwd", "pairs-1.txt", 5])
def test_a_manifest_line_cannot_point_out_of_the_folder(tmp_path, name):
    filled(tmp_path / "store").close()
    manifest = tmp_path / "store" / MANIFEST
    line = {**json.loads(manifest.read_text().splitlines()[1]), "name": name}
    with open(manifest, "a") as file:
        file.write(json.dumps(line) + "\n")
    store = PairStore(tmp_path / "store")
    assert len(store) == 6 and len(store.recovery.manifest) == 1
    assert "describes no segment" in store.recovery.manifest[0]


def test_a_newer_store_is_refused_and_not_touched(tmp_path):
    filled(tmp_path).close()
    (tmp_path / "pairs-00000009.arrow.tmp").write_bytes(b"theirs")
    with open(tmp_path / MANIFEST, "a") as file:
        file.write(json.dumps({"schema": 2, "segments": "something new"}) + "\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "store.lock"}
    for _ in range(2):  # Refusing lets go of the lock.
        with pytest.raises(ValueError, match=rf"{MANIFEST} has schema version 2, this Apogee reads up to 1"):
            PairStore(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "store.lock"} == before


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "pwrite"])
def test_a_full_disk_loses_nothing_that_was_stored(tmp_path, monkeypatch, call):
    store = filled(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(segments._HashedFile if call == "write" else os, call, full)
        with pytest.raises(OSError, match="No space left") as error:
            store.append([pair(50, condition=3)], [conditioning(3)])
    assert error.value.errno == errno.ENOSPC and str(tmp_path) in str(error.value)
    assert "everything stored before is kept" in str(error.value)
    assert not any(name.endswith(".tmp") for name in files(tmp_path))
    assert len(store) == 6 and same(store.read([expected(5).id])[0], expected(5))
    store.append([pair(50, condition=3)], [conditioning(3)])
    store.close()
    again = PairStore(tmp_path)
    assert len(again) == 7 and same(again.read([pair(50, condition=3).id])[0], pair(50, condition=3))
    assert again.recovery.missing == () and again.verify() == []


def test_a_write_that_stops_in_the_middle_of_a_segment_keeps_the_rest(tmp_path):
    """The kernel itself refuses to let the file grow: the error passes through pyarrow's writer."""
    store = filled(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            store.append([pair(60, shape=(16, 32, 32))], [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(error.value)
    assert not any(name.endswith(".tmp") for name in files(tmp_path))
    store.append([pair(60, shape=(16, 32, 32))], [])
    assert same(store.read([pair(60).id])[0], pair(60, shape=(16, 32, 32)))
