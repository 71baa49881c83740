"""Where a store's files lie: a folder of this machine, or whatever filesystem pyarrow reaches by a URI.

A file is made whole or not at all and never changes once it has its name; neither kind of place can append.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from buffers.store.lock import LOCK, take_lock

TEMPORARY, SET_ASIDE = ".tmp", "set_aside"

_HELD: set[str] = set()
"""URIs that this process writes to."""


class Folder:
    """A folder of this machine: files are forced to disk and then renamed, and read memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def lock(self) -> Any:
        """Makes this process the one that writes. Raises BlockingIOError that names the one that does."""
        return take_lock(self.path)

    def unlock(self, lock: Any) -> None:
        os.close(lock)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A new file to write into; it has its name when this ends well, and is on disk under it after `settle`."""
        temporary = self.path / (name + TEMPORARY)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path / name)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def settle(self) -> None:
        """Forces the names of all files made so far to disk."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def open(self, name: str) -> pa.NativeFile:
        """Raises FileNotFoundError."""
        return pa.memory_map(str(self.path / name), "r")

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        return (self.path / name).read_bytes()

    def size(self, name: str) -> int | None:
        """Bytes; None where there is no such file."""
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Of all files, in no order."""
        return [entry.name for entry in os.scandir(self.path) if entry.is_file()]

    def remove(self, name: str) -> None:
        """A file that no commit names yet."""
        (self.path / name).unlink(missing_ok=True)

    def set_aside(self, name: str) -> str:
        """Moves a file to `set_aside/`, under a name that is free there; returns it."""
        aside = self.path / SET_ASIDE
        aside.mkdir(exist_ok=True)
        free = next(path for number in range(10**9) if not (path := aside / _numbered(name, number)).exists())
        os.replace(self.path / name, free)
        self.settle()
        return f"{SET_ASIDE}/{free.name}"


class Remote:
    """A path of a pyarrow filesystem, an object store's above all: a file is there once its stream is closed.

    Two writers who open it in the same moment are not told apart by every object store; who comes later always is.
    """

    def __init__(self, filesystem: pafs.FileSystem, path: str, *, uri: str) -> None:
        self._fs, self._path, self._uri = filesystem, path.rstrip("/"), uri

    def __str__(self) -> str:
        return self._uri

    def make(self) -> None:
        self._fs.create_dir(self._path, recursive=True)

    def lock(self) -> Any:
        """As `Folder.lock`; a writer that was killed leaves its lock behind, and its own machine takes it over."""
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
        _HELD.discard(self._uri)
        with suppress(FileNotFoundError):
            if json.loads(self.read(LOCK)) == lock:
                self._fs.delete_file(self._at(LOCK))

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        with self._fs.open_output_stream(self._at(name)) as file:
            yield file  # pyright: ignore[reportReturnType]

    def settle(self) -> None:
        """A closed stream is durable."""

    def open(self, name: str) -> pa.NativeFile:
        return self._fs.open_input_file(self._at(name))

    def read(self, name: str) -> bytes:
        with self._fs.open_input_stream(self._at(name)) as file:
            return file.read()

    def size(self, name: str) -> int | None:
        info = self._fs.get_file_info(self._at(name))
        return info.size if info.type == pafs.FileType.File else None

    def names(self) -> list[str]:
        found = self._fs.get_file_info(pafs.FileSelector(self._path))
        return [info.base_name for info in found if info.type == pafs.FileType.File]

    def remove(self, name: str) -> None:
        if self.size(name) is not None:
            self._fs.delete_file(self._at(name))

    def set_aside(self, name: str) -> str:
        self._fs.create_dir(f"{self._path}/{SET_ASIDE}")
        free = next(
            path for number in range(10**9) if self.size(path := f"{SET_ASIDE}/{_numbered(name, number)}") is None
        )
        self._fs.move(self._at(name), self._at(free))
        return free

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"


Place = Folder | Remote


def place_of(where: str | Path) -> Place:
    """A path, or a URI as `s3://bucket/store`. Raises ValueError that names a URI which no filesystem understands."""
    if isinstance(where, Path) or "://" not in where:
        return Folder(Path(where))
    try:
        filesystem, path = pafs.FileSystem.from_uri(where)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{where} is no place for a store: {error}") from error
    return Folder(Path(path)) if isinstance(filesystem, pafs.LocalFileSystem) else Remote(filesystem, path, uri=where)


def _numbered(name: str, number: int) -> str:
    return f"{name}.{number}" if number else name


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
