import numpy as np
import pytest

from buffers.people.fingerprints import BLOCK, BLOCKS, fingerprint, fingerprint_of, seen_fingerprint
from media.video_write import write_mp4


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


def test_uncompressed_videos_that_differ_in_one_byte_between_the_blocks_are_two(tmp_path):
    """Two seconds of 128 x 128 as Y4M: 49,152 bytes a frame in 4:4:4, of which the sixteen blocks see a part."""
    frames = np.random.default_rng(0).integers(0, 256, (64, 128 * 128 * 3), dtype=np.uint8)
    path = tmp_path / "v.y4m"
    prints = []
    for _ in range(2):
        path.write_bytes(b"YUV4MPEG2 W128 H128 F32:1 C444\n" + b"".join(b"FRAME\n" + one.tobytes() for one in frames))
        prints.append((fingerprint(path), seen_fingerprint(path)))
        frames[2, 0] ^= 255  # behind the first block, before the second
    assert prints[0][0] == prints[1][0]
    assert prints[0][1] != prints[1][1]


def test_the_fingerprints_of_compressed_videos_and_other_files_stay_those_of_their_blocks(large, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (36, 256, 256, 3), dtype=np.uint8)
    write_mp4(tmp_path / "v.mp4", noise, fps=8.0)
    assert (tmp_path / "v.mp4").stat().st_size > BLOCK * BLOCKS
    for path in (large, tmp_path / "v.mp4"):
        assert seen_fingerprint(path) == fingerprint(path) != fingerprint(path, whole=True)


def test_several_files_are_told_apart_by_names_and_contents_in_any_order(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    first = fingerprint_of([a, b])
    assert fingerprint_of([b, a]) == first != fingerprint_of([a])
    a.write_bytes(b"2")
    b.write_bytes(b"1")
    assert fingerprint_of([a, b]) != first
