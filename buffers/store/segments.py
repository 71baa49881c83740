"""Sealed Arrow IPC files: written whole or not at all, checksummed, and read memory-mapped.

A segment never changes once it has its name. An Arrow file cannot be appended to, and a file that is cut short cannot
be read at all: what is added later is a segment of its own.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import pyarrow as pa

from buffers.store.arrow import TABLES, check_schema
from buffers.store.places import Place

SUFFIX = ".arrow"
BLOCK = 1 << 22
WORTH_A_THREAD = 1 << 18
"""Bytes from which hashing takes longer than handing them to a thread."""


@dataclass(frozen=True)
class Segment:
    """A sealed file as the commit that added it names it. `kind`: which table its rows belong to."""

    name: str
    kind: str
    rows: int
    bytes: int
    sha256: str


class _HashedFile(io.RawIOBase):
    """Passes bytes on to a file and hashes them on their way, so that a segment is not read again for its checksum.

    `hasher`: a thread that hashes a large piece while it is being written.
    """

    def __init__(self, file: BinaryIO, hasher: ThreadPoolExecutor) -> None:
        self._file, self._hasher = file, hasher
        self.digest, self.bytes = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        if len(view) < WORTH_A_THREAD:
            self.digest.update(view)
            self._file.write(view)
        else:
            hashed = self._hasher.submit(self.digest.update, view)
            self._file.write(view)
            hashed.result()
        self.bytes += len(view)
        return len(view)


def write_segment(
    place: Place, name: str, batches: Iterable[pa.RecordBatch], *, kind: str, schema: pa.Schema
) -> Segment:
    """Writes the batches. If it raises (OSError: disk full), nothing has the name."""
    rows = 0
    with ThreadPoolExecutor(1) as hasher, place.create(name) as file:
        hashed = _HashedFile(file, hasher)
        with pa.PythonFile(hashed, mode="w") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
    return Segment(name, kind, rows, hashed.bytes, hashed.digest.hexdigest())


class Segments:
    """Reads rows of segments; keeps the most recently read ones open. Any number of threads.

    A segment is checked against its checksum once, before its first row is handed out.
    """

    def __init__(self, place: Place, *, kept_open: int = 64) -> None:
        self._place = place
        self._intact: set[str] = set()
        # A file that drops out of this cache is closed when the last batch that lies in it is gone.
        self._reader = lru_cache(kept_open)(self._opened)

    def written(self, segment: Segment) -> None:
        """This process wrote the segment: its bytes need no check."""
        self._intact.add(segment.name)

    def rows(self, segment: Segment, rows: Sequence[int]) -> list[pa.RecordBatch]:
        """Batches of one row each, in this order; on this machine nothing is copied, and they stay valid for good.

        Raises ValueError if the file's bytes have changed or it does not have the columns of its kind,
        FileNotFoundError that names it.
        """
        batches = self._reader(segment)
        if batches.num_record_batches == segment.rows:
            return [batches.get_batch(row) for row in rows]
        whole = batches.get_batch(0)
        return [whole.slice(row, 1) for row in rows]

    def checksum(self, segment: Segment) -> str | None:
        """Hexadecimal sha256 of the file as it is now; None if it is gone."""
        try:
            with self._place.open(segment.name) as file:
                return hashlib.file_digest(pa.BufferedInputStream(file, BLOCK), "sha256").hexdigest()
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Lets go of the files; rows that were read stay valid."""
        self._reader.cache_clear()

    def _opened(self, segment: Segment) -> Any:
        where = f"{self._place}/{segment.name}"
        if segment.name not in self._intact:
            if (found := self.checksum(segment)) is None:
                raise FileNotFoundError(f"{where} is gone: what lay in it cannot be read")
            if found != segment.sha256:
                raise ValueError(f"{where} is damaged: its sha256 is not that of its commit; restore it from a copy")
            self._intact.add(segment.name)
        try:
            reader = pa.ipc.open_file(self._place.open(segment.name))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{where} is damaged: {error}") from error
        check_schema(reader.schema, TABLES[segment.kind], where=where)
        return reader
