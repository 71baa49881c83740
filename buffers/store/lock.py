"""One writer per folder, held by the kernel: however a process ends, its lock ends with it."""

import fcntl
import os
from pathlib import Path

LOCK = "store.lock"


def take_lock(folder: Path) -> int:
    """Locks the folder and returns the descriptor that holds the lock; closing it lets go.

    Raises BlockingIOError that names the folder and the process that has it.
    """
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise BlockingIOError(
            error.errno,
            f"another writer (process {holder}) holds this buffer; stop it or choose another run folder",
            str(folder),
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock
