"""One live display per run, or plain lines if the output is no terminal. A run prints nothing else."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich import progress
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from buffers.figures import Figure
from cluster.monitor.wording import duration, figure_interval, figure_unit, figure_value
from cluster.run_folder import RunFolder

PLAIN_SECONDS = 10.0
"""Least time between two plain lines of the same phase."""


class _Bar(progress.Progress):
    """The bar, and the facts below it."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(task.fields["facts"], "dim") for task in self.tasks)


class Progress:
    """A context manager: `with Progress(40) as progress: progress.phase("online"); progress.update(step=3, loss=0.6)`.

    On a terminal one display is redrawn in place. Elsewhere a plain line is printed when a phase begins and then at
    most every ten seconds. The time left goes by the pace of all steps so far.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        unit: str = "step",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """total_steps: 0 if it is not known yet; a later `phase` may say it."""
        self._console, self._clock, self._unit = console or Console(highlight=False), clock, unit
        self._facts: dict[str, float | str | None] = {}
        self._last_line = float("-inf")
        self._bar = _Bar(
            progress.TextColumn("[bold]Apogee  [cyan]{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=self._console,
            get_time=clock,
            speed_estimate_period=float("inf"),
            refresh_per_second=4,
            transient=True,
        )
        self._bar.add_task("starting", total=total_steps or None, facts="")
        [self._task] = self._bar.tasks

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.live.stop()
        if kind is not None:
            text = f"stopped in phase {self._task.description} after {duration(self._task.elapsed or 0.0)}"
            self._console.print(text, markup=False)

    def phase(self, name: str, *, total: int | None = None, **facts: float | str | None) -> None:
        """A new part of the run has begun. total: how many steps there are, if that is known. facts: as in `update`."""
        self._bar.update(self._task.id, description=name, total=total)
        self._show(facts)
        self._print_line(now=True)

    def update(self, **facts: float | str | None) -> None:
        """Newest facts by name. Facts that are not given stay as they were; None takes a fact away.

        `step` moves the bar; every other fact is shown under its own name.
        """
        self._show(facts)
        self._print_line(now=False)

    def _show(self, facts: Mapping[str, float | str | None]) -> None:
        self._facts |= facts
        step = self._facts.get("step")
        shown = {name: fact for name, fact in self._facts.items() if name != "step" and fact is not None}
        text = ", ".join(f"{name.replace('_', ' ')} {_text(fact)}" for name, fact in shown.items())
        self._bar.update(self._task.id, completed=None if isinstance(step, str) else step, facts=text)

    def result(self, summary: Mapping[str, Any], folder: Path | str) -> None:
        """End the display and print the figures of `write_summary`, before and after, and the paths of the files."""
        self._bar.live.stop()
        title = "Result (95% intervals, over prompts)"
        table = Table("", "before", "after", "paired difference", title=title, title_justify="left", title_style="bold")
        for name, figure in summary["figures"].items():
            before = f"against {figure['against']}" if figure["against"] else _cell(figure["before"])
            unit = figure_unit(figure["after"] or figure["before"])
            change = _cell(figure["change"]) if figure["change"] else ""
            table.add_row(f"{name}, {unit}", before, _cell(figure["after"]), change)
        if table.rows:
            self._console.print(table)
        run = RunFolder(folder)
        for label, path in (("report", run.report_file), ("figures", run.summary_file), ("adapter", run.adapter)):
            if path.exists():  # on one line, so that it can be copied and clicked
                self._console.print(f"{label:8} {path}", markup=False, soft_wrap=True)

    def _print_line(self, *, now: bool) -> None:
        if self._console.is_terminal or (not now and self._clock() - self._last_line < PLAIN_SECONDS):
            return
        self._last_line = self._clock()
        task = self._task
        parts = (
            f"[{duration(task.elapsed or 0.0)}] {task.description}",
            f"{self._unit} {task.completed:.0f} of {task.total or 0:.0f}" if "step" in self._facts else "",
            f"left {duration(task.time_remaining)}" if task.time_remaining else "",
            task.fields["facts"],
        )
        self._console.print(", ".join(filter(None, parts)), markup=False, soft_wrap=True)


def _text(fact: float | str) -> str:
    if isinstance(fact, str):
        return fact
    return f"{fact:,}" if isinstance(fact, int) else f"{fact:.3g}"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "not measured"
    count = f"\n{figure['count']} of {figure['of']}" if "count" in figure else ""
    return f"{figure_value(figure)}\n({figure_interval(figure)}){count}"
