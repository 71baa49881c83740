import dataclasses
import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from buffers.store import segments
from buffers.store.pair_store import CATALOG, PairStore
from buffers.store.places import SET_ASIDE
from tests.buffers.samples import anchor, conditioning, pair, same, verdict

ROOT = Path(__file__).resolve().parents[3]


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
    return [stored.id for stored in store.catalog.pairs()]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".arrow", ".tmp", ".json"))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def forget(folder: Path) -> None:
    """What a store knows besides its commits and segments can always be made again."""
    for path in folder.glob(f"{CATALOG}*"):
        path.unlink()


@pytest.mark.parametrize("forgotten", [False, True])
def test_what_is_appended_is_read_back_now_and_after_reopening(tmp_path, forgotten):
    store = filled(tmp_path)
    wanted = [expected(n).id for n in (4, 0, 3)]
    assert same(tuple(store.read(wanted)), tuple(expected(n) for n in (4, 0, 3)))
    assert same(store.conditionings(["c1", "c0", "c1"]), {"c1": conditioning(1), "c0": conditioning(0)})
    store.close()
    if forgotten:
        forget(tmp_path)
    again = PairStore(tmp_path)
    assert not again.recovery
    assert ids(again) == [expected(n).id for n in range(6)]
    assert same(tuple(again.read(wanted)), tuple(expected(n) for n in (4, 0, 3)))
    assert [(s.policy_version, s.condition_id) for s in again.catalog.pairs()][2:4] == [(1, "c1")] * 2
    assert {s.bytes for s in again.catalog.pairs()} == {2 * expected(0).chosen.nbytes}
    assert again.verify() == {}


def test_a_condition_and_a_video_are_stored_once(tmp_path):
    filled(tmp_path).close()
    assert [name for name in files(tmp_path) if name.startswith("conditionings")] == [
        "conditionings-00000001.arrow",
        "conditionings-00000002.arrow",
    ]
    again = PairStore(tmp_path)
    again.append(anchors=[anchor(1)])
    before = files(tmp_path)
    with_anchor = dataclasses.replace(pair(9), chosen_id="video1", chosen=anchor(1).latents, source="half-online")
    again.append([dataclasses.replace(with_anchor, rejected_id=pair(0).chosen_id, rejected=pair(0).chosen)])
    assert sorted({*files(tmp_path)} - {*before}) == ["commit-00000005.json", "pairs-00000005.arrow"]
    assert same(again.read([pair(9).id])[0].chosen, anchor(1).latents)
    assert same(again.read([pair(9).id])[0].rejected, pair(0).chosen)


def test_a_corrected_verdict_holds_from_then_on_and_may_change_sides(tmp_path):
    store = filled(tmp_path)
    changed, kept = expected(0), expected(3)
    store.correct({changed.id: verdict(4), kept.id: verdict(3)})
    store.close()
    for _ in range(2):
        store = PairStore(tmp_path)
        found, other = store.read([changed.id, kept.id])
        assert found.verdict == verdict(4) and same(other, dataclasses.replace(kept, verdict=verdict(3)))
        assert (found.chosen_id, found.rejected_id) == (changed.rejected_id, changed.chosen_id)
        assert same(found.chosen, changed.rejected) and same(found.rejected, changed.chosen)
        store.close()
        forget(tmp_path)
    store = PairStore(tmp_path)
    store.correct({changed.id: verdict(1)})
    assert same(store.read([changed.id])[0], changed)
    with pytest.raises(KeyError, match="nobody is no pair"):
        store.correct({"nobody": verdict(1)})
    with pytest.raises(ValueError, match="label 0; want 1, 2, 3 or 4"):
        store.correct({changed.id: verdict(0)})


def test_pairs_must_be_new_and_have_a_conditioning(tmp_path):
    store = filled(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"pair c0-0-1 is in .* already"):
        store.append([expected(0)], [])
    with pytest.raises(ValueError, match="pair c0-40-41 is in"):
        store.append([pair(20), pair(20)], [])
    with pytest.raises(ValueError, match="c7-40-41 has no conditioning: c7"):
        store.append([pair(20, condition=7)], [conditioning(6)])
    assert files(tmp_path) == before and len(store) == 6


def test_an_unknown_pair_is_a_key_error(tmp_path):
    with pytest.raises(KeyError, match="c0-98-99 is no pair of"):
        filled(tmp_path).read(["c0-98-99"])


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    store = filled(tmp_path)
    attempt = [sys.executable, "-c", f"from buffers.store.pair_store import *; PairStore(Path({str(tmp_path)!r}))"]
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


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("left", [None, 0, 10, 500, -1])
def test_a_segment_that_is_gone_or_cut_short_is_named_and_the_others_stay(tmp_path, left, forgotten):
    filled(tmp_path).close()
    torn = tmp_path / "latents-00000002.arrow"
    if left is None:
        torn.unlink()
    else:
        os.truncate(torn, left if left >= 0 else torn.stat().st_size - 1)
    if forgotten:
        forget(tmp_path)
    store = PairStore(tmp_path)
    assert list(store.verify()) == [torn.name]
    assert list(store.recovery.missing) == ([torn.name] if forgotten else [])
    wanted = "c1-[45] is not among the latents" if forgotten else r"latents-00000002\.arrow is (gone|damaged)"
    with pytest.raises((FileNotFoundError, ValueError, KeyError), match=wanted):
        store.read([expected(2).id])
    assert same(tuple(store.read([expected(5).id, expected(0).id])), (expected(5), expected(0)))


@pytest.mark.parametrize("where", ["header", "latents", "footer"])
def test_a_flipped_byte_is_found_before_the_pair_is_handed_out(tmp_path, where):
    filled(tmp_path).close()
    path = tmp_path / "latents-00000002.arrow"
    position = {
        "header": 3,
        "latents": path.read_bytes().index(expected(3).rejected.data.tobytes()) + 20,
        "footer": path.stat().st_size - 12,
    }[where]
    flip(path, position)
    store = PairStore(tmp_path)
    assert list(store.verify()) == [path.name]
    with pytest.raises(ValueError, match=r"latents-00000002\.arrow is damaged"):
        store.read([expected(3).id])
    assert same(store.read([expected(4).id])[0], expected(4))


def test_a_commit_that_is_gone_is_named_and_hides_no_later_one(tmp_path):
    filled(tmp_path).close()
    (tmp_path / "commit-00000002.json").unlink()
    store = PairStore(tmp_path)
    assert store.verify() == {"commit-00000002.json": "is gone"}
    assert len(store) == 6  # The catalog still knows where everything lies.
    store.close()
    forget(tmp_path)
    store = PairStore(tmp_path)
    assert store.recovery.missing == {"commit-00000002.json": "is gone"}
    assert ids(store) == [expected(n).id for n in (0, 1, 4, 5)]
    store.append([pair(50)], [])
    assert files(tmp_path)[-1] == "pairs-00000004.arrow"


def test_what_a_killed_writer_left_is_set_aside_and_foreign_files_stay(tmp_path):
    filled(tmp_path).close()
    (tmp_path / "pairs-00000004.arrow").write_bytes((tmp_path / "pairs-00000001.arrow").read_bytes())
    (tmp_path / "latents-00000004.arrow.tmp").write_bytes(b"ARROW1")
    (tmp_path / "commit-00000004.json.tmp").write_bytes(b"{")
    (tmp_path / "notes.txt").write_text("mine")
    store = PairStore(tmp_path)
    assert sorted(store.recovery.set_aside) == [
        "commit-00000004.json.tmp",
        "latents-00000004.arrow.tmp",
        "pairs-00000004.arrow",
    ]
    assert len(store) == 6
    assert store.verify() == {"notes.txt": "is none of the store's"}
    store.close()
    (tmp_path / "pairs-00000004.arrow").write_bytes(b"again")
    store = PairStore(tmp_path)
    assert sorted(path.name for path in (tmp_path / SET_ASIDE).iterdir())[-2:] == [
        "pairs-00000004.arrow",
        "pairs-00000004.arrow.1",
    ]
    store.close()
    store = PairStore(tmp_path)
    assert not store.recovery
    store.append([pair(50)], [])
    assert files(tmp_path)[-1] == "pairs-00000004.arrow"


@pytest.mark.parametrize("damage", [b"", b"no database at all, only words" * 100, None])
def test_a_damaged_or_outdated_catalog_is_made_anew(tmp_path, damage):
    filled(tmp_path).close()
    if damage is None:  # Of a store that was in this folder before, and went further.
        other = filled(tmp_path / "other", appends=5)
        other.close()
        shutil.copy(tmp_path / "other" / CATALOG, tmp_path / CATALOG)
    else:
        (tmp_path / CATALOG).write_bytes(damage)
    store = PairStore(tmp_path)
    assert ids(store) == [expected(n).id for n in range(6)]
    assert same(store.read([expected(4).id])[0], expected(4))


@pytest.mark.parametrize("name", ["../latents-00000004.arrow", "/etc/passwd", "latents-00000003.arrow", 5])
def test_a_commit_cannot_name_a_file_that_is_not_its_own(tmp_path, name):
    filled(tmp_path / "store").close()
    commit = json.loads((tmp_path / "store" / "commit-00000003.json").read_text())
    commit["content"]["segments"][0]["name"] = name
    canonical = json.dumps(commit["content"], sort_keys=True).encode()
    commit["sha256"] = hashlib.sha256(canonical).hexdigest()
    (tmp_path / "store" / "commit-00000004.json").write_text(json.dumps(commit))
    store = PairStore(tmp_path / "store")
    assert len(store) == 6
    assert "which is no segment of it" in store.recovery.missing["commit-00000004.json"]


def test_a_flipped_byte_in_a_commit_is_found_and_mended_by_a_copy(tmp_path):
    """Its checksum holds every fact that the catalog has from it."""
    filled(tmp_path).close()
    (tmp_path / CATALOG).unlink()
    path = tmp_path / "commit-00000002.json"
    whole = path.read_text()
    path.write_text(whole.replace(expected(2).id, expected(5).id))
    store = PairStore(tmp_path)
    assert store.recovery.missing == {path.name: "is damaged: its sha256 is not the one it was written with"}
    assert expected(2).id not in ids(store) and expected(0).id in ids(store)
    store.close()
    path.write_text(whole)
    again = PairStore(tmp_path)
    assert not again.recovery.missing and ids(again) == [expected(n).id for n in range(6)]


def test_a_newer_store_is_refused_and_not_touched(tmp_path):
    filled(tmp_path).close()
    (tmp_path / "commit-00000004.json").write_text(json.dumps({"schema": 5, "something": "new"}))
    (tmp_path / "pairs-00000004.arrow.tmp").write_bytes(b"theirs")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".arrow", ".json", ".tmp")}
    for _ in range(2):  # Refusing lets go of the lock.
        with pytest.raises(ValueError, match=r"commit-00000004\.json has schema version 5, this Apogee reads up to 4"):
            PairStore(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("write", [True, False])
def test_a_store_of_the_first_schema_is_refused_and_not_touched(tmp_path, write):
    old = {"manifest.jsonl": b"{}\n", "pairs-00000001.arrow": b"old"}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="is a store of schema version 1, this Apogee reads 2"):
        PairStore(tmp_path, write=write)
    assert {name: (tmp_path / name).read_bytes() for name in old} == old


def test_a_store_knows_what_it_was_made_for_once_something_is_in_it(tmp_path):
    PairStore(tmp_path, encoded_by={"vae": "wan2.2@7f"}).close()
    for encoded_by, number in (({"vae": "wan2.1@1a"}, 0), ({"vae": "wan2.1@1a", "text_encoder": "umt5@3c"}, 1)):
        store = PairStore(tmp_path, encoded_by=encoded_by)
        store.append([pair(number)], [conditioning(0)])
        store.close()
    assert PairStore(tmp_path, write=False).encoded_by == {"vae": "wan2.1@1a", "text_encoder": "umt5@3c"}
    with pytest.raises(ValueError, match=r"made with another vae \(wan2.1@1a; the bundle's is wan2.2@7f\)"):
        PairStore(tmp_path, encoded_by={"vae": "wan2.2@7f"})
    PairStore(tmp_path).close()  # Refusing let go of the lock.


def test_readers_follow_a_writer_and_never_write(tmp_path):
    with pytest.raises(FileNotFoundError, match="no store"):
        PairStore(tmp_path / "nowhere", write=False)
    writer = filled(tmp_path)
    reader = PairStore(tmp_path, write=False)
    assert ids(reader) == [expected(n).id for n in range(6)]
    writer.append([pair(50)], [])
    assert same(PairStore(tmp_path, write=False).read([pair(50).id])[0], pair(50))
    with pytest.raises(ValueError, match="was opened to be read"):
        reader.append([pair(51)], [])


def test_a_reader_leaves_a_catalog_that_it_does_not_understand_as_it_is(tmp_path):
    filled(tmp_path).close()
    for content in (b"of another Apogee" * 100, None):
        forget(tmp_path)
        if content:
            (tmp_path / CATALOG).write_bytes(content)
        reader = PairStore(tmp_path, write=False)
        assert ids(reader) == [expected(n).id for n in range(6)]
        reader.close()
        if content:
            assert (tmp_path / CATALOG).read_bytes() == content


def test_a_store_in_a_folder_that_cannot_be_written_is_read(tmp_path):
    filled(tmp_path).close()
    forget(tmp_path)
    command = f"from buffers.store.pair_store import *; print(len(PairStore({str(tmp_path)!r}, write=False)))"
    tmp_path.chmod(0o555)
    try:
        # Root may write anywhere; its capabilities are put down first.
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--regid=65534", "--clear-groups"]
        for parent in [*tmp_path.parents][:-2]:
            parent.chmod(parent.stat().st_mode | 0o055)
        found = subprocess.run(
            [*drop, sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
        )
    finally:
        tmp_path.chmod(0o755)
    assert found.stdout == "6\n", found.stderr


@pytest.mark.parametrize(
    ("call", "fails_at"),
    [("write", 1), *(("fsync", number) for number in range(1, 7)), *(("replace", number) for number in range(1, 5))],
)
def test_a_full_disk_loses_nothing_that_was_stored(tmp_path, monkeypatch, call, fails_at):
    """At any of the calls of an append: three segments and the folder, the commit and the folder again."""
    store = filled(tmp_path)
    owner, calls = segments._HashedFile if call == "write" else os, []
    as_it_is = getattr(owner, call)

    def full(*given):
        calls.append(given)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return as_it_is(*given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, full)
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
    assert not again.recovery and again.verify() == {}


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
