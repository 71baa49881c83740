"""Where everything of one run lies. No ray, no torch. Whether a run may be written there: `checks/out_folder.py`."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml
from pydantic import ValidationError

from configs.schema import RunConfig
from configs.sections import SamplingConfig
from media.whole import whole_file

DRIVER = "driver.lock"
"""Held by the process that drives the run, which it names."""

SAMPLING_FILE = "sampling.json"
"""Beside an adapter: how it is to be sampled."""


@dataclass(frozen=True)
class Sampled:
    """How an adapter is to be sampled. `distilled`: guidance is inside, and more of it would guide twice."""

    distilled: bool
    sampling: SamplingConfig

    @classmethod
    def after(cls, config: RunConfig, number: int) -> "Sampled":
        """The adapter that a stage of this config leaves."""
        return cls(config.is_distilled(number + 1), config.sampled_after(number).sampling)

    @classmethod
    def read(cls, adapter: Path) -> "Sampled | None":
        """Of an adapter's folder; None if nothing is said there. Raises ValueError that names a damaged file."""
        file = adapter / SAMPLING_FILE
        if not file.is_file():
            return None
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            return cls(bool(said["distilled"]), SamplingConfig.model_validate(said["sampling"]))
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise ValueError(
                f"{file}: is not what a run writes beside an adapter; delete it, or copy it anew"
            ) from error

    def write(self, adapter: Path) -> None:
        """Into an adapter's folder."""
        said = {"distilled": self.distilled, "sampling": self.sampling.model_dump(mode="json")}
        (adapter / SAMPLING_FILE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def lock(file: IO[Any], out: Path | str) -> None:
    """This process alone holds the file until it is closed.

    Raises BlockingIOError or PermissionError if another one does; OSError that names `out` if the file system has no
    locks.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise
    except OSError as error:
        raise OSError(
            f"out={out}: the file system has no locks ({error.strerror}), which SQLite needs; choose a folder on "
            "another one"
        ) from None


class RunFolder:
    """The names inside a run folder. `RunFolder(path)` creates nothing; `begin` does."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser().absolute()
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self.report_file = self.path / "report.html"
        self.adapter = self.path / "adapter"
        self.adapters = self.path / "adapters"
        self.buffer = self.path / "buffer"
        self.doubtful = self.path / "doubtful"
        self.checkpoints = self.path / "checkpoints"
        self.videos = self.path / "videos"
        self.measured = self.path / "measured.jsonl"
        self.logs = self.path / "logs"
        self.tracker = self.path / "tracker"

    @classmethod
    def around(cls, place: Path) -> "RunFolder | None":
        """The run whose folder `place` is, or lies in; None if there is none."""
        place = place.absolute()
        runs = (cls(folder) for folder in (place, *place.parents))
        return next((run for run in runs if run.config_file.is_file()), None)

    def adapter_of(self, number: int, kind: str) -> Path:
        """The adapter that one of several stages left: `adapters/2-half_online`."""
        return self.adapters / f"{number + 1}-{kind}"

    def best_of(self, number: int, kind: str) -> Path:
        """The best adapter of a stage, by `evaluation.best`: `adapters/2-half_online-best`."""
        return self.adapters / f"{number + 1}-{kind}-best"

    def checkpoints_of(self, number: int, kind: str) -> Path:
        """The states of a stage: `checkpoints/2-half_online`."""
        return self.checkpoints / f"{number + 1}-{kind}"

    @property
    def parts(self) -> tuple[Path, ...]:
        """Everything that is worth keeping of a run, or of half a run."""
        files = (self.config_file, self.metrics_file, self.summary_file, self.report_file)
        return (*files, self.adapter, self.adapters, self.buffer, self.doubtful, self.checkpoints, self.videos)

    @property
    def is_finished(self) -> bool:
        """Whether the summary says that all steps were done and measured."""
        return self.summary_file.is_file() and bool(
            json.loads(self.summary_file.read_text(encoding="utf-8"))["complete"]
        )

    @contextlib.contextmanager
    def driven(self) -> Iterator[None]:
        """This process alone drives the run, as long as the block lasts. A lock of a process that was killed is gone.

        The folder is made. Raises BlockingIOError that names the process that drives it; OSError if the file system
        knows no locks: SQLite needs them, too.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / DRIVER).open("a+", encoding="utf-8") as file:
            try:
                lock(file, self.path)
            except (BlockingIOError, PermissionError):
                raise BlockingIOError(
                    f"out={self.path}: {self._named_driver()} drives this run; stop it first, or choose another folder"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def driver(self) -> str | None:
        """Who drives the run; None if nobody does."""
        with contextlib.suppress(FileNotFoundError), (self.path / DRIVER).open("r+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return self._named_driver()
        return None

    def _named_driver(self) -> str:
        return (self.path / DRIVER).read_text(encoding="utf-8") or "another process"

    def begin(self, config: RunConfig) -> None:
        """Make the folders and write the resolved config. Raises PermissionError or OSError that names the folder."""
        try:
            for folder in (self.logs, self.videos, self.buffer, self.checkpoints, self.tracker):
                folder.mkdir(parents=True, exist_ok=True)
            resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            with whole_file(self.config_file) as unfinished:
                unfinished.write_text(resolved, encoding="utf-8")
        except OSError as error:
            raise type(error)(
                f"out={self.path}: cannot write there ({error.strerror}); choose another folder"
            ) from error

    def take_back(self) -> None:
        """Undo `begin` if nothing has been done yet: an empty folder must not look like a run that was stopped."""
        shutil.rmtree(self.logs, ignore_errors=True)
        self.config_file.unlink(missing_ok=True)
        (self.path / DRIVER).unlink(missing_ok=True)
        for path in (self.videos, self.buffer, self.checkpoints, self.tracker, self.path):
            with contextlib.suppress(OSError):  # not empty: not ours
                path.rmdir()

    def what_was_kept(self) -> str:
        """A sentence for a run that was stopped: what is there, and how to go on."""
        parts = (self.metrics_file, self.buffer, self.checkpoints, self.adapters, self.adapter)
        kept = [path.name for path in parts if path.is_file() or (path.exists() and any(path.iterdir()))]
        return (
            f"the run was stopped; kept in {self.path}: {', '.join(kept)}, and a report of what was done. The same "
            "command goes on from there. To start anew, give it another folder: out=FOLDER"
        )
