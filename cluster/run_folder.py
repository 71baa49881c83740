"""Where everything of one run lies, and the checks that a new run may be written there. No ray, no torch."""

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from cluster import run_state
from configs.schema import RunConfig

LATENT_CHANNELS, TEMPORAL_FACTOR, SPATIAL_FACTOR = 16, 4, 8
"""Wan2.1's VAE. Wan2.2-5B's (48 channels at 1/16) is a quarter smaller, so this is the larger of the two."""

MP4_BYTES_PER_PIXEL = 0.1
"""A generous bound for H.264 of moving pictures."""

SLACK, FIXED_BYTES = 1.25, 200 * 2**20
"""Text conditioning grows with the pairs; checkpoints, logs and the tracker hardly do."""


@dataclass(frozen=True)
class RunFolder:
    """The names inside a run folder. `RunFolder(path)` looks at one that exists; `create` starts a new one."""

    path: Path

    @classmethod
    def open(cls, path: Path | str, config: RunConfig) -> tuple["RunFolder", bool]:
        """The folder, and whether a run of the same config is in it, not finished, to be gone on with.

        Raises FileExistsError if the folder holds a finished run, or one whose config differs in more than a number of
        steps that has grown; and whatever `create` raises.
        """
        folder = cls(Path(path).expanduser().absolute())
        if not folder.config_file.is_file():
            return cls.create(path, config), False
        before = yaml.safe_load(folder.config_file.read_text(encoding="utf-8"))
        now = config.model_dump(mode="json")
        if differing := different_keys(before, now):
            raise FileExistsError(
                f"out={folder.path}: this folder already holds a run (config.yaml) of another config; it was left as "
                f"it is. Different: {', '.join(differing)}. A run goes on with the config that it began with; only "
                "stages.N.steps may grow. Give that config, or another folder, for example "
                f"out={_free_name(folder.path)}"
            )
        if folder.is_finished and before == now:
            raise FileExistsError(
                f"out={folder.path}: this folder already holds a run, and it is finished (config.yaml, summary.json); "
                "it was left as it is. Raise stages.N.steps to go on with it, or choose another folder, for example "
                f"out={_free_name(folder.path)}"
            )
        folder._write_config(config)
        return folder, True

    @property
    def is_finished(self) -> bool:
        """Whether a report says that all steps were done and measured."""
        try:
            return bool(json.loads(self.summary_file.read_text(encoding="utf-8"))["complete"])
        except FileNotFoundError:
            return False

    def keep_adapter(self) -> None:
        """The newest state's adapter, in diffusers' format, becomes the run's."""
        states = run_state.folders(self.checkpoints)
        if states:
            unfinished = self.adapter.with_name(".adapter.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(states[-1] / run_state.ADAPTER, unfinished)
            shutil.rmtree(self.adapter, ignore_errors=True)
            unfinished.rename(self.adapter)

    @classmethod
    def create(cls, path: Path | str, config: RunConfig) -> "RunFolder":
        """Make the folder and write the resolved config into it.

        Raises FileExistsError where a run is there already (it is left as it is), NotADirectoryError, PermissionError,
        and OSError where the disk has less free than `needed_bytes(config)`. Nothing is left behind by a refusal.
        """
        folder = cls(Path(path).expanduser().absolute())
        folder._refuse_existing_run()
        existing = _nearest_existing(folder.path)
        if not existing.is_dir():
            raise NotADirectoryError(f"out={path}: {existing} is a file; out= has to name a folder")
        _check_writable(existing, out=path)
        _check_disk(existing, out=path, needed=needed_bytes(config))
        try:
            for subfolder in (folder.logs, folder.videos, folder.buffer, folder.checkpoints, folder.tracker):
                subfolder.mkdir(parents=True, exist_ok=True)
            folder._write_config(config)
        except OSError as error:
            raise _not_writable(folder.path, out=path, error=error) from error
        return folder

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def buffer(self) -> Path:
        return self.path / "buffer"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tracker(self) -> Path:
        return self.path / "tracker"

    def _write_config(self, config: RunConfig) -> None:
        resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        partial = self.config_file.with_suffix(".yaml.tmp")
        partial.write_text(resolved, encoding="utf-8")
        os.replace(partial, self.config_file)

    def _refuse_existing_run(self) -> None:
        """Any one of our names counts: half a run is worth keeping too."""
        ours = (self.config_file, self.metrics_file, self.summary_file, self.report_file, self.adapter)
        ours += (self.buffer, self.checkpoints, self.videos)
        found = [item.name for item in ours if os.path.exists(item)]
        if found:
            raise FileExistsError(
                f"out={self.path}: this folder already holds a run ({', '.join(found)}); it was left as it is. "
                f"Choose another folder, for example out={_free_name(self.path)}"
            )


def different_keys(before: Any, now: Any, key: str = "") -> list[str]:
    """Dotted keys whose values differ between two resolved configs. A `stages.N.steps` that has grown is no difference.

    Example: different_keys({"seed": 0, "stages": [{"steps": 3}]}, {"seed": 1, "stages": [{"steps": 9}]}) == ["seed"]
    """
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = (dict(enumerate(values)) for values in (before, now))
    if not (isinstance(before, dict) and isinstance(now, dict)):
        grown = (
            isinstance(before, int)
            and isinstance(now, int)
            and re.fullmatch(r"stages\.\d+\.steps", key)
            and before < now
        )
        return [] if before == now or grown else [key]
    inside = f"{key}." if key else ""
    names = sorted(before.keys() | now.keys())
    return [k for name in names for k in different_keys(before.get(name), now.get(name), f"{inside}{name}")]


def needed_bytes(config: RunConfig) -> int:
    """Upper estimate of disk use: two latents for every pair that is learned from or waits, and the mp4 files."""
    sampling, learner = config.sampling, config.learner
    latent_frames = (sampling.num_frames - 1) // TEMPORAL_FACTOR + 1
    area = ceil(sampling.height / SPATIAL_FACTOR) * ceil(sampling.width / SPATIAL_FACTOR)
    # The buffer keeps latents as the policy makes them: in float32 they are twice as large.
    element = 4 if config.model.dtype == "float32" else 2
    learned = sum(stage.steps for stage in config.stages) * learner.pairs_per_step
    pairs = ceil(learned / config.buffer.max_uses) + config.buffer.capacity
    latents = pairs * 2 * LATENT_CHANNELS * latent_frames * area * element
    pixels = sampling.num_frames * sampling.height * sampling.width
    videos = 2 * config.evaluation.shown_videos * pixels * MP4_BYTES_PER_PIXEL
    return int(SLACK * (latents + videos)) + FIXED_BYTES


def _nearest_existing(path: Path) -> Path:
    """The folder (or file) on the way to `path` that is already there."""
    # os.path.exists, since Path.exists raises where a folder on the way may not be entered.
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def _free_name(path: Path) -> Path:
    number = 2
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate


def _check_writable(existing: Path, *, out: Path | str) -> None:
    try:
        # Really writing is the only answer that also holds for read-only mounts and quotas.
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"apogee")
    except OSError as error:
        raise _not_writable(existing, out=out, error=error) from error


def _not_writable(path: Path, *, out: Path | str, error: OSError) -> PermissionError:
    return PermissionError(
        f"out={out}: cannot write in {path} ({error.strerror}); choose a folder that you may write to, "
        "for example out=runs/NAME, or change its permissions"
    )


def _check_disk(existing: Path, *, out: Path | str, needed: int) -> None:
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OSError(
            f"out={out}: {existing} has {free / 2**30:.1f} GiB free and this run needs about {needed / 2**30:.1f} GiB "
            "(buffer latents and videos); free some space, choose another out=, or shorten stages.*.steps "
            "or learner.pairs_per_step"
        )
