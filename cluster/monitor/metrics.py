"""Every figure of a run, in three places at once: JSON lines, the tracker, Ray's metrics.

The JSON lines are what the report is made from; they are flushed row by row, so that whatever happened is kept.
"""

import functools
import json
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from cluster.monitor.balance import live_balance
from cluster.monitor.rows import Row
from configs.schema import RunConfig
from media.whole import drop_torn_line

OfActors = Literal["roles", "failure", "late", "balance"]
Kind = OfActors | Literal["step", "verdicts", "evaluation", "glance", "guard", "phase", "left_out", "set_aside"]

BALANCE_ROWS = 60
"""Ten minutes of a generator, so many steps of the learner."""

SAMPLES = 8
"""Videos of each evaluation that the tracker gets."""

WANDB_SECONDS = 30.0
"""Within these Weights & Biases has to answer."""

UNTRACKED = {"time", "kind", "role", "index", "stage", "counts", "phase", "name"}
"""Keys that say what a row is about; the rest are figures."""

TAGS = ("role", "index", "stage", "domain")
"""Few tags on purpose: a tag per prompt or sample is known to stall Ray's metrics agents.

A tag that a row does not have is empty. Only the training of a ranker has a domain.
"""


class MetricsLog:
    """A plain class used as an actor.

    file: rows `{"time": seconds since the start of the run, "kind": ..., ...}` are appended to it.
    tracker: makes the tracker (`start_tracker`), or None for no tracker.
    domain: which adapter is trained, in the training of a ranker.
    gauge: makes a `ray.util.metrics.Gauge` from a name and `tag_keys`, or None if there is no Ray.

    Example: MetricsLog(Path("run/metrics.jsonl"), started=time.time()).record("step", {"step": 1})
    """

    def __init__(
        self,
        file: Path,
        *,
        started: float,
        domain: str = "",
        tracker: Callable[[], tuple[Any, Any]] | None = None,
        gauge: Callable[..., Any] | None = None,
    ) -> None:
        drop_torn_line(file)  # of a run, or a metrics actor, that was killed
        self._file = file.open("a", encoding="utf-8")
        self._started, self._domain = started, domain
        self._latest: dict[str, dict[str, Any]] = {}
        self._times: dict[tuple[str, int], deque[Row]] = {}
        self._gauge = gauge and functools.cache(functools.partial(gauge, tag_keys=TAGS))
        self._tracker: Any = None
        self._library: Any = None
        if tracker is not None:
            self._tracker, self._library = tracker()

    def record(self, kind: Kind, row: dict[str, Any]) -> None:
        """Append one row. `time` and `kind` are added to it."""
        row = {"time": round(time.time() - self._started, 3), "kind": kind, **row}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._latest[kind] = row
        figures = _figures(row)
        self._track(row, figures)
        if self._gauge is not None:
            tags = {"role": "run", "domain": self._domain, **row}
            for key, value in figures.items():
                gauge = self._gauge("apogee_" + re.sub(r"\W", "_", key.rsplit("/", 1)[-1]))
                gauge.set(value, tags={tag: str(tags.get(tag, "")) for tag in TAGS})
        if kind == "roles":
            self._times.setdefault((row["role"], row["index"]), deque(maxlen=BALANCE_ROWS)).append(row)
            if row["role"] == "learner" and (number := live_balance(self._times)) is not None:
                self.record("balance", {"balance": number})

    def _track(self, row: Row, figures: dict[str, Any]) -> None:
        """Figures, and the first videos that an evaluation has kept; equal prompts and noises have one name."""
        if self._tracker is None or not figures:
            return
        try:
            videos: dict[str, Any] = {}
            for each in row.get("kept", [])[:SAMPLES]:
                path, caption = Path(self._file.name).parent / each["file"], f"{row['phase']}: {each['prompt']}"
                videos[f"videos/{path.stem}"] = self._library.Video(str(path), caption=caption, format="mp4")
            self._tracker.log(figures | videos)
        except Exception as error:  # the rows are on disk; that nobody can look on is no reason to end a run
            print(f"the tracker gets nothing any more: {error!r}")
            self._tracker = None

    def latest(self, kind: Kind) -> dict[str, Any] | None:
        """The last row of a kind, or None."""
        return self._latest.get(kind)

    def close(self) -> None:
        """Write out what the tracker still holds. Nothing is recorded after this."""
        if self._tracker is not None:
            self._tracker.finish()
        self._file.close()


def _figures(row: dict[str, Any]) -> dict[str, float]:
    """The row's numbers under names of their own: `loss` of a step row is `step/loss`; counts are flattened."""
    subject = "/".join(str(row[key]) for key in ("kind", "role", "index", "phase", "name") if key in row)
    numbers = {**row, **row.get("counts", {})}
    numbers |= {name: figure["value"] for name, figure in row.get("figures", {}).items()}
    return {
        f"{subject}/{key}": float(value)
        for key, value in numbers.items()
        if key not in UNTRACKED and isinstance(value, int | float) and not isinstance(value, bool)
    }


def check_tracker(config: RunConfig) -> None:
    """Raises ValueError if Weights & Biases is asked for and would get nothing."""
    if config.tracker != "wandb":
        return
    try:
        import wandb
    except ImportError:
        raise ValueError("is not installed: python -m pip install --editable '.[wandb]', or trackio") from None
    if os.environ.get("WANDB_MODE", "online") != "online":
        return
    try:
        known, why = wandb.login(prompt=False), "nobody is logged in"
    except wandb.Error as error:
        known, why = False, str(error)
    if not known:
        raise ValueError(f"{why}; run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline")


def start_tracker(config: RunConfig, folder: Path) -> tuple[Any, Any]:
    """A run of `config.tracker` that goes on with the one in the folder, if there is one; and the tracker's library.

    What Weights & Biases does not get because it is out of reach stays in the folder, and the run goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config.tracker == "trackio":
        os.environ["TRACKIO_DIR"] = str(folder)  # read when it is imported
        import trackio

        quiet: Any = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        return trackio.init(project="apogee", name=config.name, resume="allow", **quiet), trackio
    import wandb

    same = folder / "wandb-run-id"
    if not same.exists():
        same.write_text(secrets.token_hex(4))
    settings = {"console": "off", "init_timeout": WANDB_SECONDS}
    start = functools.partial(wandb.init, project="apogee", name=config.name, id=same.read_text(), dir=folder)
    start = functools.partial(start, resume="allow", config=config.model_dump(), settings=settings)
    try:
        run = start()
    except wandb.Error as error:
        print(f"Weights & Biases: {error}. To send the figures later: wandb sync {folder}/wandb/offline-run-*")
        wandb.teardown()  # or the run is "in use"
        run = start(mode="offline")
    run.define_metric("step/*", step_metric="step/step")
    return run, wandb
