"""Whether a run may be written into its folder: what is there already, permissions, and the space on the disk."""

import itertools
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from cluster.checks.plan import Plan
from cluster.evaluation import videos_kept
from cluster.run_folder import RunFolder, lock
from configs.schema import RunConfig

MP4_BYTES_PER_PIXEL = 0.1
"""A generous bound for H.264 of moving pictures."""

SLACK, FIXED_BYTES = 1.25, 200 * 2**20
"""For file formats and filling; for checkpoints, logs and the tracker, which hardly grow with the run."""


def goes_on(config: RunConfig) -> bool:
    """Whether a run of the same config is in the folder `config.out`, not finished, to be gone on with.

    Raises FileExistsError if the folder holds a finished run, or one whose config differs in more than a number of
    steps that has grown, or parts of a run without a config.
    """
    folder = RunFolder(config.out)
    if not os.path.isfile(folder.config_file):  # Path.is_file raises if a folder on the way may not be entered
        if parts := [item.name for item in folder.parts if os.path.exists(item)]:
            raise _held(folder, f" ({', '.join(parts)})", "Choose")
        return False
    before = yaml.safe_load(folder.config_file.read_text(encoding="utf-8"))
    now = config.model_dump(mode="json")
    if differing := different_keys(before, now):
        right = (
            f"Different: {', '.join(differing)}. A run goes on with the config that it began with; only stages.N.steps "
            "and last_stage may grow, and stages may be added at the end. Give that config, or"
        )
        raise _held(folder, " (config.yaml) of another config", right)
    if before == now and folder.is_finished:
        right = "Raise stages.N.steps or add a stage to go on with it, or choose"
        raise _held(folder, ", and it is finished (config.yaml, summary.json)", right)
    return True


def _held(folder: RunFolder, what: str, right: str) -> FileExistsError:
    path = folder.path
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    free = next(each for each in numbered if not each.exists())
    return FileExistsError(
        f"out={path}: this folder already holds a run{what}; it was left as it is. {right} another folder, for example "
        f"out={free}"
    )


def different_keys(before: Any, now: Any, key: str = "") -> list[str]:
    """Dotted keys whose values differ between two resolved configs. More steps or more stages are no difference.

    Example: different_keys({"seed": 0, "stages": [{"steps": 3}]}, {"seed": 1, "stages": [{"steps": 9}]}) == ["seed"]
    """
    if isinstance(before, list) and isinstance(now, list):
        now = now[: len(before)] if key == "stages" else now
        before, now = (dict(enumerate(values)) for values in (before, now))
    if not (isinstance(before, dict) and isinstance(now, dict)):
        may_grow = isinstance(before, int) and re.fullmatch(r"stages\.\d+\.steps|last_stage", key)
        grows = may_grow and (now is None or (isinstance(now, int) and now > before))  # pyright: ignore[reportOperatorIssue]
        return [] if before == now or grows else [key]
    inside = f"{key}." if key else ""
    names = sorted(before.keys() | now.keys())
    return [k for name in names for k in different_keys(before.get(name), now.get(name), f"{inside}{name}")]


def check_new(out: Path) -> None:
    """Raises FileExistsError unless `out` is not there or an empty folder: for a command that makes one in one go."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise FileExistsError(f"--out {out}: there is something; name a new folder")


def check_writable(out: str) -> None:
    """Raises NotADirectoryError or PermissionError that names the folder, or OSError if no file of it can be locked.

    Nothing is left behind.
    """
    existing = _nearest_existing(out)
    if not existing.is_dir():
        raise NotADirectoryError(f"out={out}: {existing} is a file; out= has to name a folder")
    try:
        # Really writing is the only answer that also holds for read-only mounts and quotas.
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"apogee")
    except OSError as error:
        raise PermissionError(
            f"out={out}: cannot write in {existing} ({error.strerror}); choose a folder that you may write to, "
            "for example out=runs/NAME, or change its permissions"
        ) from error
    with tempfile.TemporaryFile(dir=existing) as probe:
        lock(probe, out)


def check_disk(plan: Plan, *, conditions: int) -> None:
    """Raises OSError if the disk of `out` has less free than the run needs.

    conditions: how many there are to make videos of.
    """
    out = plan.config.out
    existing = _nearest_existing(out)
    free, needed = shutil.disk_usage(existing).free, needed_bytes(plan, conditions=conditions)
    if free < needed:
        raise OSError(
            f"out={out}: {existing} has {free / 2**30:.1f} GiB free and this run needs about {needed / 2**30:.1f} GiB "
            "(latents and prompt embeddings of the buffer, and videos); free some space, choose another out=, or "
            "shorten stages.*.steps or learner.pairs_per_step"
        )


def needed_bytes(plan: Plan, *, conditions: int) -> int:
    """Upper estimate of disk use: latents of every generated pair and of a full buffer, embeddings, and mp4 files.

    The embeddings of a condition are stored once, however many pairs were made of it.
    """
    videos = plan.training_videos + 2 * plan.config.buffer.capacity
    latents = videos * plan.latent_bytes
    embeddings = min(conditions, videos // 2) * plan.embedding_bytes
    evaluations = len(plan.config.numbers) + 1
    mp4 = evaluations * videos_kept(plan.config) * plan.pixel_bytes / 3 * MP4_BYTES_PER_PIXEL
    return int(SLACK * (latents + embeddings + mp4)) + FIXED_BYTES


def _nearest_existing(out: str) -> Path:
    """The folder (or file) on the way to `out` that is already there."""
    # os.path.exists, since Path.exists raises if a folder on the way may not be entered.
    path = Path(out).expanduser().absolute()
    return next(each for each in (path, *path.parents) if os.path.exists(each))
