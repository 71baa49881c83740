"""Sealed Arrow IPC files: written whole or not at all, checksummed, read memory-mapped.

A segment never changes once it has its name. An Arrow file cannot be appended to and, cut short, cannot be read at
all; so it is written under a temporary name, forced to disk, and only then renamed.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from buffers.arrow import check_schema

SUFFIX, TEMPORARY = ".arrow", ".arrow.tmp"


class _HashedFile(io.RawIOBase):
    """Passes bytes on to a file and hashes them on their way, so that a segment is not read again to be checksummed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self.digest.update(view)
        self._file.write(view)
        return len(view)


def write_segment(path: Path, rows: Iterable[pa.RecordBatch], *, schema: pa.Schema) -> str:
    """Writes one record batch per row and forces the file to disk; the name is durable after `sync_folder`.

    Returns the sha256 of the file, hexadecimal. If it raises (OSError: disk full), nothing has the name `path`.
    """
    temporary = path.with_suffix(TEMPORARY)
    try:
        with open(temporary, "wb") as file:
            hashed = _HashedFile(file)
            with pa.PythonFile(hashed, mode="w") as sink, pa.ipc.new_file(sink, schema) as writer:
                for row in rows:
                    writer.write_batch(row)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return hashed.digest.hexdigest()


def read_rows(path: Path, rows: Sequence[int], *, schema: pa.Schema) -> list[pa.RecordBatch]:
    """The given record batches, memory-mapped: nothing is copied, and they stay valid if the file is moved or deleted.

    Raises ValueError if the file is no segment of this schema, FileNotFoundError if it is not there.
    """
    # Closing keeps the mapping for as long as a batch uses it, and gives the file descriptor back at once.
    with pa.memory_map(str(path), "r") as source:
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        check_schema(reader.schema, schema, where=str(path))
        return [reader.get_batch(row) for row in rows]


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file. Raises FileNotFoundError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Forces the names in a folder (new files, renames) to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
