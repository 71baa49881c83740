"""Where everything of one run lies, and the checks that a new run may be written there. No ray, no torch."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import yaml

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
            resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            folder.config_file.write_text(resolved, encoding="utf-8")
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
