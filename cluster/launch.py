"""One run, from a config to a report: check, start Ray, run the stages, write down; or go on with a stopped run."""

import asyncio
import contextlib
import time
from pathlib import Path

from cluster import run_state
from cluster.checks.resources import evaluation_needs, needs
from cluster.checks.run import Checked
from cluster.monitor.log_file import logs_to
from cluster.monitor.progress import Progress
from cluster.monitor.rows import read_metrics
from cluster.on_ray.connect import connected
from cluster.on_ray.crew import Crew
from cluster.on_ray.placement import wait_for_room
from cluster.report.run import write_report, write_summary
from cluster.run_folder import RunFolder
from cluster.signals import until_stopped
from cluster.stages import Run, run_stages


def run(checked: Checked) -> Path:
    """Do the whole run, or what is left of it, and return its folder.

    If the folder holds a run of the same config that was stopped or killed, it goes on from its last whole state.
    Raises ValueError before anything is started if the checks found problems, and ValueError or OSError if the run does
    not fit on the cluster or its folder cannot be written. If a part fails, everything is stopped, what was done is
    written down, and the first failure is raised with a note of what was kept. Raises BlockingIOError if another
    process drives the run. Ctrl-C, SIGTERM and a closed
    terminal do the same; their KeyboardInterrupt says what was kept and how to go on.
    """
    if checked.problems:
        raise ValueError("\n".join(checked.problems))
    folder = RunFolder(checked.config.out)
    with folder.driven():
        return _driven(checked, folder)


def _driven(checked: Checked, folder: RunFolder) -> Path:
    """`run`, once no other process drives the run in the folder."""
    started, config = time.time(), checked.config
    folder.begin(config)
    if checked.goes_on:
        started -= max((row["time"] for row in read_metrics(folder.metrics_file)), default=0.0)
    stopped: BaseException | None = None
    with (
        Progress(sum(config.stages[each].steps for each in config.numbers)) as progress,
        logs_to(folder.logs / "driver.log"),
    ):
        progress.phase("start", waiting_for="Ray")
        with contextlib.ExitStack() as stack:
            try:
                needed = [evaluation_needs(config), *(needs(stage) for stage in config.by_stage())]
                on_gpus = any(need.gpus for of_stage in needed for need in of_stage)
                stack.enter_context(connected(config.cluster, on_gpus=on_gpus, logs=folder.logs))
                for of_stage in needed:
                    wait_for_room(of_stage, config.cluster, lambda what: progress.phase("start", waiting_for=what))
            except BaseException:
                if not checked.goes_on:
                    folder.take_back()
                raise
            crew = Crew(config, folder, started=started, encoded_by=checked.encoded_by)
            assert checked.facts is not None, "it has been checked"
            prompts, spatial = (checked.training, checked.held_out), checked.facts.vae_spatial
            all_of_it = Run(config, folder, crew, progress, *prompts, vae_spatial=spatial)
            try:
                asyncio.run(until_stopped(run_stages(all_of_it), crew.supervisor.watch_ray(crew.small)))
            except (Exception, KeyboardInterrupt) as error:
                stopped = error
        interrupted = isinstance(stopped, KeyboardInterrupt)
        progress.phase("report")
        if not folder.adapter.exists():
            run_state.keep_adapter(folder.checkpoints, folder.adapter)
        summary = write_summary(folder.path, {"interrupted": interrupted, "seconds": time.time() - started})
        write_report(folder.path)
        if stopped is None:
            progress.result(summary, folder.path)
            return folder.path
    if interrupted:
        raise KeyboardInterrupt(folder.what_was_kept()) from None
    stopped.add_note(folder.what_was_kept())
    raise stopped
