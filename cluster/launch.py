"""One run, from a config to a report: check, start Ray, run the stages, write down; or go on with a stopped run."""

import asyncio
import contextlib
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from cluster.checks.resources import check_resources, needs
from cluster.checks.start import absolute, start_checks
from cluster.monitor.log_file import logs_to
from cluster.monitor.progress import Progress
from cluster.monitor.rows import read_metrics
from cluster.on_ray.connect import connected
from cluster.on_ray.crew import Crew, nodes
from cluster.report.run import write_report, write_summary
from cluster.run_folder import RunFolder
from cluster.stages import Run, run_stages
from configs.schema import RunConfig


def run(config: RunConfig) -> Path:
    """Do the whole run, or what is left of it, and return its folder.

    If the folder holds a run of the same config that was stopped or killed, it goes on from its last whole state.
    Raises ValueError or OSError before anything is started, if something can be known to be wrong. If a part fails,
    everything is stopped, what was done is written down, and the first failure is raised with a note of what was kept.
    Ctrl-C and SIGTERM do the same; their KeyboardInterrupt says what was kept and how to go on.
    """
    started = time.time()
    config = absolute(config)
    training, held_out, encoded_by = start_checks(config)
    folder, goes_on = RunFolder.open(config.out, config)
    if goes_on:
        started -= max((row["time"] for row in read_metrics(folder.metrics_file)), default=0.0)
    stopped: BaseException | None = None
    with Progress(sum(stage.steps for stage in config.stages)) as progress, logs_to(folder.logs / "driver.log"):
        progress.phase("start")
        with contextlib.ExitStack() as stack:
            try:
                needed = needs(config)
                on_gpus = any(need.gpus for need in needed)
                stack.enter_context(connected(config.cluster, on_gpus=on_gpus, logs=folder.logs))
                check_resources(needed, nodes())
            except BaseException:
                if not goes_on:
                    _take_back(folder)
                raise
            crew = Crew(config, folder, started=started, encoded_by=encoded_by)
            try:
                asyncio.run(_until_terminated(run_stages(Run(config, folder, crew, progress, training, held_out))))
            except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:
                stopped = error
        interrupted = isinstance(stopped, KeyboardInterrupt | asyncio.CancelledError)
        progress.phase("report")
        if not folder.adapter.exists():
            folder.keep_adapter()
        summary = write_summary(folder.path, {"interrupted": interrupted, "seconds": time.time() - started})
        write_report(folder.path)
        if stopped is None:
            progress.result(summary, folder.path)
            return folder.path
    if interrupted:
        raise KeyboardInterrupt(_what_was_kept(folder)) from None
    stopped.add_note(_what_was_kept(folder))
    raise stopped


async def _until_terminated(main: Any) -> None:
    """SIGTERM (a job that is stopped) cancels like Ctrl-C, which asyncio.run turns into a cancellation by itself."""
    task = asyncio.ensure_future(main)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


def _what_was_kept(folder: RunFolder) -> str:
    kept = [path for path in (folder.metrics_file, folder.buffer, folder.checkpoints, folder.adapter) if path.exists()]
    return (
        f"the run was stopped; kept in {folder.path}: {', '.join(path.name for path in kept)}, and a report of what "
        "was done. The same command goes on from there. To start anew, give it another folder: out=FOLDER"
    )


def _take_back(folder: RunFolder) -> None:
    """Nothing has been done yet: an empty folder must not look like a run that was stopped."""
    shutil.rmtree(folder.logs, ignore_errors=True)
    folder.config_file.unlink(missing_ok=True)
    for path in (folder.videos, folder.buffer, folder.checkpoints, folder.tracker, folder.path):
        with contextlib.suppress(OSError):  # not empty: not ours
            path.rmdir()
