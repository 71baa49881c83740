"""SQLite files for small facts: opened one way, and with errors that name the file."""

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Database:
    """One SQLite file that threads of one process share.

    `durable`: whether a transaction is on disk when it ends, or may be lost in a power cut (never torn).
    """

    def __init__(self, path: Path, *, durable: bool, tables: str = "") -> None:
        """`tables`: statements that make what is not there yet.

        Raises sqlite3.DatabaseError if the file is none, OSError that names it if it cannot be made or written.
        """
        self._path, self._lock = path, threading.RLock()
        with self._named():
            self.connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self.connection.executescript(tables)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or, if anything is raised, nothing. Raises OSError that names the file (disk full)."""
        with self._lock, self._named():
            self.connection.execute("BEGIN IMMEDIATE")
            with self.connection:
                yield self.connection

    def rows(self, query: str, values: object = ()) -> list[tuple]:
        with self._lock:
            return self.connection.execute(query, values).fetchall()  # pyright: ignore[reportArgumentType]

    def value(self, query: str, values: object = ()) -> int:
        """The number that a query asks for; 0 if it finds none."""
        rows = self.rows(query, values)
        return rows[0][0] or 0 if rows else 0

    def close(self) -> None:
        with self._lock:
            self.connection.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            code = errno.ENOSPC if error.sqlite_errorcode == sqlite3.SQLITE_FULL else errno.EIO
            raise OSError(code, f"cannot write: {error}", str(self._path)) from error
