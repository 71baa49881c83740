"""What tells one file from another without reading all of a large one."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from media.video_read import frames_apart

BLOCK, BLOCKS = 1 << 16, 16


def fingerprint(path: str | Path, *, whole: bool = False) -> str:
    """Hexadecimal sha256 of the size and of 16 blocks of 64 KiB spread evenly over the file, or of all of it.

    A file no larger than its blocks is always read `whole`. Two compressed videos, or two files of weights, that agree
    in all blocks are the same one. Raises OSError.
    """
    size = Path(path).stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with open(path, "rb") as file:
        if whole or size <= BLOCK * BLOCKS:
            while data := file.read(BLOCK * BLOCKS):
                digest.update(data)
        else:
            for number in range(BLOCKS):
                file.seek(number * (size - BLOCK) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()


def seen_fingerprint(path: str | Path) -> str:
    """`fingerprint` of a video or a picture: of all of it if one frame can differ and nothing else. Raises OSError."""
    return fingerprint(path, whole=Path(path).stat().st_size > BLOCK * BLOCKS and frames_apart(path))


def fingerprint_of(paths: Iterable[Path]) -> str:
    """One for several files together: of their names and contents, in the order of the names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(f"{path.name}\t{fingerprint(path)}\n".encode())
    return digest.hexdigest()
