"""One run, from a config to a report: check, start, evaluate, run the loop, evaluate again, write down.

What only one run has lives here; what every online stage does is `online_loop.py`.
"""

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from actors.prompts import PromptStream
from buffers.records import Condition
from cluster import online_loop
from cluster.checks.resources import check_resources, needs
from cluster.checks.start import absolute, start_checks
from cluster.evaluation import evaluate, evaluation_requests
from cluster.learn_steps import in_thread
from cluster.monitor.log_file import noise_to
from cluster.monitor.progress import Progress
from cluster.monitor.watch import record_verdicts, watch
from cluster.on_ray.connect import connected
from cluster.on_ray.crew import Crew, nodes
from cluster.on_ray.learner_worker import ADAPTER, make_trainer
from cluster.report.run import write_report, write_summary
from cluster.run_folder import RunFolder
from configs.schema import RunConfig

Result = TypeVar("Result")

CLOSE_SECONDS = 10.0
"""How long the metrics may take to be written out at the end."""


@dataclass
class _Run:
    config: RunConfig
    folder: RunFolder
    crew: Crew
    progress: Progress

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Shown while it lasts, recorded with its seconds when it ends (well or not)."""
        self.progress.phase(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.crew.metrics.record.remote("phase", {"name": name, "seconds": time.perf_counter() - started})


def run(config: RunConfig) -> Path:
    """Do the whole run and return its folder.

    Raises ValueError or OSError before anything has been started where something can be known to be wrong; the first
    failure of any part, after everything has been stopped and what was done is written down, with a note of what was
    kept. On Ctrl-C and SIGTERM the same happens, and the KeyboardInterrupt says what was kept and how to go on.
    """
    started = time.time()
    config = absolute(config)
    training, held_out = start_checks(config)
    folder = RunFolder.create(config.out, config)
    stopped: BaseException | None = None
    with Progress(sum(stage.steps for stage in config.stages)) as progress, noise_to(folder.logs / "driver.log"):
        progress.phase("start")
        with contextlib.ExitStack() as stack:
            try:
                needed = needs(config)
                on_gpus = any(need.gpus for need in needed)
                stack.enter_context(connected(config.cluster, on_gpus=on_gpus, logs=folder.logs))
                check_resources(needed, nodes())
            except BaseException:
                _take_back(folder)
                raise
            crew = Crew(config, folder, started=started)
            crew.metrics.record.remote("phase", {"name": "start", "seconds": time.time() - started})
            try:
                asyncio.run(_until_terminated(_main(_Run(config, folder, crew, progress), training, held_out)))
            except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:
                stopped = error
        interrupted = isinstance(stopped, KeyboardInterrupt | asyncio.CancelledError)
        progress.phase("report")
        facts = {"interrupted": interrupted, "seconds": time.time() - started}
        summary = _write_down(folder, facts)
        if stopped is None:
            progress.result(summary, folder.path)
            return folder.path
    if interrupted:
        raise KeyboardInterrupt(_what_was_kept(folder)) from None
    stopped.add_note(_what_was_kept(folder))
    raise stopped


async def _main(run: _Run, training: Sequence[Condition], held_out: Sequence[Condition]) -> None:
    """Everything between the actors' birth and their end. Learner and ranker start during the first evaluation."""
    config, crew = run.config, run.crew
    trainer = make_trainer(
        config, checkpoints=run.folder.checkpoints, buffer=crew.buffer, weights=crew.weights, metrics=crew.metrics
    )
    learning = asyncio.ensure_future(in_thread(trainer.fit))
    ready = asyncio.ensure_future(crew.ready())
    watching = asyncio.ensure_future(watch(crew, run.progress))
    try:
        with run.phase("evaluation before"):
            await _unless_failed(_evaluate(run, "before", held_out), ready, learning)
        with run.phase("wait for ranker and learner"):
            await _unless_failed(ready, learning)
        with run.phase("online"):
            result = await online_loop.run(
                prompts=PromptStream(training, per_request=config.generator.conditions_per_request, seed=config.seed),
                generators=crew.generators,
                rankers=crew.rankers,
                buffer=crew.buffer,
                weights=crew.weights,
                learn=lambda: learning,
                requests_in_flight=config.generator.requests_in_flight,
                recover=crew.losses.recover,
            )
        await record_verdicts(crew)
        _export(Path(result.checkpoint.path), run.folder)
        with run.phase("evaluation after"):
            newest = (online_loop.load_newest(g, crew.weights, online_loop.NOTHING_LOADED) for g in crew.generators)
            await asyncio.gather(*newest)
            await _evaluate(run, "after", held_out)
    finally:
        for task in (ready, watching):
            task.cancel()
        await _stop_learning(run, learning)
        with contextlib.suppress(Exception):  # the rows are on disk already; the tracker may be late
            await asyncio.wait_for(_await(crew.metrics.close.remote()), CLOSE_SECONDS)


async def _evaluate(run: _Run, phase: str, conditions: Sequence[Condition]) -> None:
    config = run.config
    requests = evaluation_requests(
        conditions,
        videos=config.evaluation.videos,
        seed=config.evaluation.seed,
        conditions_per_request=config.generator.conditions_per_request,
    )
    summary = await evaluate(
        phase,
        requests,
        generators=run.crew.generators,
        evaluator=run.crew.evaluator,
        requests_in_flight=config.generator.requests_in_flight,
        measured=lambda videos: run.progress.update(measured=f"{videos} of {config.evaluation.videos}"),
    )
    run.progress.update(measured=None)
    await run.crew.metrics.record.remote("evaluation", {"phase": phase, **summary})


async def _stop_learning(run: _Run, learning: asyncio.Future[Any]) -> None:
    """Let the learner save what it has learned; where it has not made a step there is nothing to wait for."""
    if learning.done():
        return
    with contextlib.suppress(Exception):  # lost actors cannot be asked; something else is being raised then
        await run.crew.buffer.close.remote()
        if await run.crew.metrics.latest.remote("step") is not None:
            await asyncio.wait([learning], timeout=online_loop.STOP_SECONDS)
    learning.cancel()


async def _unless_failed(work: Awaitable[Result], *others: asyncio.Future[Any]) -> Result:
    """The result of `work`, or the failure of whatever fails first."""
    task = asyncio.ensure_future(work)
    pending: set[asyncio.Future[Any]] = {task, *others}
    try:
        while not task.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for finished in done:
                finished.result()
        return task.result()
    finally:
        if not task.done():
            task.cancel()


async def _until_terminated(main: Any) -> None:
    """SIGTERM (a job that is stopped) cancels like Ctrl-C, which asyncio.run turns into a cancellation by itself."""
    task = asyncio.ensure_future(main)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


async def _await(reference: Any) -> Any:
    return await reference


def _export(checkpoint: Path, folder: RunFolder) -> None:
    """The checkpoint's adapter, in diffusers' format, becomes the run's."""
    shutil.copytree(checkpoint / ADAPTER, folder.adapter)


def _write_down(folder: RunFolder, facts: dict[str, Any]) -> dict[str, Any]:
    """Summary and report of whatever was done; a run that was stopped keeps the adapter of its last checkpoint."""
    whole = [path for path in sorted(folder.checkpoints.glob("learner/checkpoint_*")) if (path / ADAPTER).is_dir()]
    if not folder.adapter.exists() and whole:
        _export(whole[-1], folder)
    summary = write_summary(folder.path, facts)
    write_report(folder.path)
    return summary


def _what_was_kept(folder: RunFolder) -> str:
    kept = [path for path in (folder.metrics_file, folder.buffer, folder.checkpoints, folder.adapter) if path.exists()]
    return (
        f"the run was stopped; kept in {folder.path}: {', '.join(path.name for path in kept)}, and a report of what "
        "was done. To start anew, give the same command another folder: out=FOLDER"
    )


def _take_back(folder: RunFolder) -> None:
    """Nothing has been done yet: without this the same command would be refused the second time."""
    shutil.rmtree(folder.logs, ignore_errors=True)
    folder.config_file.unlink(missing_ok=True)
    for path in (folder.videos, folder.buffer, folder.checkpoints, folder.tracker, folder.path):
        with contextlib.suppress(OSError):  # not empty: not ours
            path.rmdir()
