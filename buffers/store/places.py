"""Where a store's files lie: a folder of this machine, or whatever filesystem pyarrow reaches by a URI.

A file is made whole or not at all and never changes once it has its name. Neither kind of place can append.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from media.whole import sync, whole_file

LOCK, SET_ASIDE = "store.lock", "set_aside"

_HELD: set[str] = set()
"""URIs that this process writes to."""


class Place:
    """The files of one folder of a filesystem, by their names in it.

    A file of an object store is there, for good, once its stream is closed. Not every object store tells two writers
    apart that open it in the same moment. The later one of two is refused.
    """

    def __init__(self, filesystem: pafs.FileSystem, path: str, *, uri: str) -> None:
        """`uri`: how messages name the place."""
        self._fs, self._path, self._uri = filesystem, path.rstrip("/"), uri

    def __str__(self) -> str:
        return self._uri

    def make(self) -> None:
        self._fs.create_dir(self._path, recursive=True)

    def lock(self) -> Any:
        """Makes this process the one that writes. Raises BlockingIOError that names the process that does.

        A writer that was killed leaves its lock behind. Its own machine takes the lock over.
        """
        mine = {"host": socket.gethostname(), "process": os.getpid()}
        with suppress(FileNotFoundError):
            held = json.loads(self.read(LOCK))
            # A restarted container may have the host and the number of the one that was killed.
            earlier = held == mine and self._uri not in _HELD
            if held["host"] != mine["host"] or (not earlier and _runs(held["process"])):
                raise BlockingIOError(
                    f"{self}: another writer (process {held['process']} on {held['host']}) holds this store; stop it, "
                    f"or remove {LOCK} there if it is gone"
                )
        with self.create(LOCK) as file:
            file.write(json.dumps(mine).encode())
        _HELD.add(self._uri)
        return mine

    def unlock(self, lock: Any) -> None:
        """`lock`: what `lock` gave."""
        _HELD.discard(self._uri)
        with suppress(FileNotFoundError):
            if json.loads(self.read(LOCK)) == lock:
                self.remove(LOCK)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A new file to write into. It has its name once the block ends, and is on disk under it after `settle`."""
        with self._fs.open_output_stream(self._at(name)) as file:
            yield file  # pyright: ignore[reportReturnType]

    def settle(self) -> None:
        """Forces the names of all files made so far to disk."""

    def open(self, name: str) -> pa.NativeFile:
        """Raises FileNotFoundError."""
        return self._fs.open_input_file(self._at(name))

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        with self._fs.open_input_stream(self._at(name)) as file:
            return file.read()

    def size(self, name: str) -> int | None:
        """Bytes; None if there is no such file."""
        info = self._fs.get_file_info(self._at(name))
        return info.size if info.type == pafs.FileType.File else None

    def names(self) -> list[str]:
        """The names of all files, in no order."""
        infos = self._fs.get_file_info(pafs.FileSelector(self._path))
        return [info.base_name for info in infos if info.type == pafs.FileType.File]

    def remove(self, name: str) -> None:
        """Removes a file that no commit names yet, if it is there."""
        if self.size(name) is not None:
            self._fs.delete_file(self._at(name))

    def set_aside(self, name: str) -> str:
        """Moves a file to `set_aside/`, under a name that is free there; returns that name."""
        self._fs.create_dir(self._at(SET_ASIDE))
        names = (f"{SET_ASIDE}/{name}.{number}" if number else f"{SET_ASIDE}/{name}" for number in range(10**9))
        free = next(aside for aside in names if self.size(aside) is None)
        self._fs.move(self._at(name), self._at(free))
        self.settle()
        return free

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"


class Folder(Place):
    """A folder of this machine: files are forced to disk and then renamed, and read memory-mapped."""

    def __init__(self, path: Path) -> None:
        super().__init__(pafs.LocalFileSystem(), str(path.absolute()), uri=str(path))
        self.path = path

    def lock(self) -> int:
        """The kernel keeps the lock: it ends with the process, however that ends. The descriptor is given back."""
        lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
            os.close(lock)
            why = f"another writer (process {holder}) holds this store; stop it or choose another folder"
            raise BlockingIOError(error.errno, why, str(self.path)) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock

    def unlock(self, lock: int) -> None:
        os.close(lock)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        with whole_file(self.path / name) as unfinished, open(unfinished, "wb") as file:
            yield file

    def settle(self) -> None:
        sync(self.path)

    def open(self, name: str) -> pa.NativeFile:
        return pa.memory_map(str(self.path / name), "r")


def place_of(where: str | Path) -> Place:
    """A path, or a URI as `s3://bucket/store`. Raises ValueError that names a URI which no filesystem understands."""
    if isinstance(where, Path) or "://" not in where:
        return Folder(Path(where))
    try:
        filesystem, path = pafs.FileSystem.from_uri(where)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{where} is no place for a store: {error}") from error
    return Folder(Path(path)) if isinstance(filesystem, pafs.LocalFileSystem) else Place(filesystem, path, uri=where)


def _runs(process: int) -> bool:
    """Whether a process of this machine runs, be it another user's."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError) as error:
        return isinstance(error, PermissionError)
    return True
