import numpy as np
import pytest

from buffers.people.fingerprints import BLOCK, BLOCKS, fingerprint, fingerprint_of


@pytest.fixture
def large(tmp_path):
    """A file of 3 MiB, of which 16 blocks of 64 KiB are looked at."""
    path = tmp_path / "large"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 3 << 20, dtype=np.uint8).tobytes())
    return path


@pytest.mark.parametrize("place", [0, (3 << 20) - 1, (3 << 20) - BLOCK, 7 * ((3 << 20) - BLOCK) // (BLOCKS - 1)])
def test_a_change_in_any_block_changes_it(large, place):
    before, data = fingerprint(large), bytearray(large.read_bytes())
    data[place] ^= 1
    large.write_bytes(data)
    assert fingerprint(large) != before


def test_length_and_every_byte_of_a_small_file_count(large, tmp_path):
    before = fingerprint(large)
    with large.open("ab") as file:
        file.write(b"x")
    assert fingerprint(large) != before
    prints = set()
    for content in (b"", b"a", b"b", b"a\0", b"x" * BLOCK * BLOCKS, b"x" * (BLOCK * BLOCKS - 1) + b"y"):
        (tmp_path / "small").write_bytes(content)
        prints.add(fingerprint(tmp_path / "small"))
    assert len(prints) == 6


def test_several_files_are_told_apart_by_names_and_contents_in_any_order(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    first = fingerprint_of([a, b])
    assert fingerprint_of([b, a]) == first != fingerprint_of([a])
    a.write_bytes(b"2")
    b.write_bytes(b"1")
    assert fingerprint_of([a, b]) != first
