"""JSON lines that only grow: a line counts once it is whole and on disk.

Not a log for people: the manifest of a store and the draws of a buffer are kept in it.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


class Journal:
    """One file of JSON objects, one a line. Opening it changes nothing that is there already.

    `rows`: the objects that were whole at opening, in order.
    `damage`: what could not be read, in words; a line cut off at the end (an append that never returned) or one
    that is no JSON object. The cut-off end is overwritten by the next `append`.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError if the file cannot be made or read."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        content = path.read_bytes()
        self._end = content.rfind(b"\n") + 1
        self.rows: list[dict[str, Any]] = []
        self.damage: list[str] = []
        for number, line in enumerate(content[: self._end].splitlines(), start=1):
            row = _parsed(line)
            if row is None:
                self.damage.append(f"{path.name}, line {number}: no JSON object; skipped")
            else:
                self.rows.append(row)
        if self._end < len(content):
            self.damage.append(
                f"{path.name}: cut off after byte {self._end} in the middle of a line; the rest is ignored"
            )

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Writes the rows; they are on disk when this returns.

        Raises OSError that names the file (disk full); then none of these rows counts.
        """
        content = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
        if os.fstat(self._file).st_size != self._end:
            os.ftruncate(self._file, self._end)
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(self._file, content[written:], self._end + written)
            os.fsync(self._file)
        except OSError as error:
            # If this fails too, the next append or the next reader cuts the tail off.
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise OSError(error.errno, f"cannot write: {error.strerror}", str(self._path)) from error
        self._end += len(content)

    def close(self) -> None:
        os.close(self._file)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
