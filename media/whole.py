"""A file or folder is there whole or not at all: it is filled under another name, forced to disk, and renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".tmp"
"""What the name of an unfinished file ends with."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A neighbour to write. At the end of the block it is forced to disk and renamed to `path`, which it may replace.

    Raises OSError if the disk refuses. If the block raises, nothing is left behind.
    """
    unfinished = path.with_name(path.name + TEMPORARY)
    try:
        yield unfinished
        sync(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """The content as a file, text as UTF-8. Raises as `whole_file` does."""
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A hidden neighbour to fill. At the end of the block it is forced to disk and renamed to `folder`.

    Raises FileExistsError if `folder` is there, unless it may `replace` it, and OSError if the disk refuses. If the
    block raises, nothing is left behind.
    """
    if folder.exists() and not replace:
        raise FileExistsError(f"{folder} exists; it is never overwritten")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.unfinished-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        yield unfinished
        for path in (*unfinished.rglob("*"), unfinished):
            sync(path)
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        sync(folder.parent)
    except BaseException:
        # Also on Ctrl-C: half a folder is worth nothing and may be the reason that the disk is full.
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


KEPT = 2
"""Steps whose folders stay on disk: the newest, and the one before it."""


@contextmanager
def step_folder(root: Path, step: int) -> Iterator[Path]:
    """A neighbour of `root/<step>` to fill, as `whole_folder` does; then the folders of older steps than `KEPT` go.

    A folder of this step is replaced, once the new one is whole: a run that goes on repeats steps.
    """
    with whole_folder(root / f"{step:08d}", replace=True) as unfinished:
        yield unfinished
    for old in step_folders(root)[:-KEPT]:
        shutil.rmtree(old)


def step_folders(root: Path) -> list[Path]:
    """The whole folders of steps, the oldest first."""
    return sorted(path for path in root.glob("[0-9]*") if path.is_dir())


def drop_torn_line(file: Path) -> None:
    """Cuts off what stands behind the last newline, if there is a file: a line whose writer was killed.

    For a file to which lines are appended: the next one would be written onto it.
    """
    if file.exists():
        content = file.read_bytes()
        if (whole := content.rfind(b"\n") + 1) < len(content):
            os.truncate(file, whole)


def sync(path: Path) -> None:
    """Forces a file's content, or the names in a folder, to disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
