"""One live display for one run; plain lines where nobody watches. The only thing that a run prints."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.monitor.wording import duration, percent, signed_percent
from cluster.run_folder import RunFolder

PLAIN_SECONDS = 10.0
"""Least time between two plain lines of the same phase."""

Fact = float | str | None

FACTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "measured": ("videos measured", str),
    "step": ("step", lambda value: f"{value:.0f}"),
    "loss": ("loss", lambda value: f"{value:.3f}"),
    "accuracy": ("right", lambda value: f"{100 * value:.0f}%"),
    "better_named": ("better one named", lambda value: f"{100 * value:.0f}%"),
    "label_mass": ("label mass", lambda value: f"{value:.3f}"),
    "implicit_accuracy": ("implicit accuracy", lambda value: f"{100 * value:.0f}%"),
    "judged": ("pairs judged", lambda value: f"{value:,.0f}"),
    "kept": ("pairs kept", lambda value: f"{value:,.0f}"),
    "dropped": ("pairs dropped", lambda value: f"{value:,.0f}"),
    "staleness": ("staleness", lambda value: f"{value:.2f}"),
    "version": ("policy version", lambda value: f"{value:.0f}"),
    "generator_busy": ("generators busy", lambda value: f"{100 * value:.0f}%"),
    "learner_waiting": ("learner waiting", lambda value: f"{100 * value:.0f}%"),
    "eta": ("left", duration),
}
"""What `update` knows: how it is called on screen, and how it is written. Shares are in [0, 1], `eta` in seconds."""


class Progress:
    """A context manager: `with Progress(40) as progress: progress.phase("online"); progress.update(step=3, loss=0.6)`.

    On a terminal one display is redrawn in place; elsewhere a plain line is printed when a phase begins and then at
    most every ten seconds. `eta` is worked out from the pace of the steps unless it is given.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        unit: str = "step",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self._unit = total_steps, unit
        self._console = console or Console(highlight=False)
        self._clock = clock
        self._facts: dict[str, Fact] = {}
        self._phase = "starting"
        self._started = self._phase_started = clock()
        self._first_step: tuple[float, float] | None = None
        self._last_line = float("-inf")
        # Drawn from the outside (get_renderable), so that the clock goes on between two updates.
        self._live = Live(console=self._console, refresh_per_second=4, transient=True, get_renderable=self._display)

    def __enter__(self) -> "Progress":
        self._started = self._phase_started = self._clock()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()
        if kind is not None:
            self._console.print(f"stopped in phase {self._phase} after {self._elapsed()}", markup=False)

    def phase(self, name: str) -> None:
        """A new part of the run has begun."""
        self._phase, self._phase_started = name, self._clock()
        self._print_line(now=True)

    def update(self, **facts: Fact) -> None:
        """Newest facts; those not given stay as they were, None takes one away.

        Known by name: measured ("64 of 512"), step, loss, implicit_accuracy, judged, kept, dropped, staleness, version,
        generator_busy, learner_waiting (shares in [0, 1]), eta (seconds). Others are shown under their own name.
        """
        step = facts.get("step")
        if isinstance(step, int | float) and "eta" not in facts:
            facts["eta"] = self._seconds_left(step)
        # A new dict, not a changed one: the display is drawn by a thread of its own.
        self._facts = {**self._facts, **facts}
        self._print_line(now=False)

    def result(self, summary: Mapping[str, Any], folder: Path | str) -> None:
        """End the display and print what came out: figures of `write_summary` and where the files lie."""
        self._live.stop()
        self._console.print(result_table(summary, Path(folder)))

    def _seconds_left(self, step: float) -> float | None:
        now = self._clock()
        if self._first_step is None or step < self._first_step[0]:
            self._first_step = (step, now)
        first, since = self._first_step
        return (now - since) / (step - first) * (self.total - step) if step > first else None

    def _written(self) -> list[tuple[str, str]]:
        """Label and text of every fact that is there, the known ones first and in their order."""
        facts = self._facts
        names = [*(name for name in FACTS if name in facts), *(name for name in facts if name not in FACTS)]
        written = []
        for name in names:
            value = facts[name]
            label, write = FACTS.get(name, (name.replace("_", " "), str))
            label = self._unit if name == "step" else label
            if value is not None:
                text = value if isinstance(value, str) else write(value)
                written.append((label, f"{text} of {self.total}" if name == "step" else text))
        return written

    def _print_line(self, *, now: bool) -> None:
        if self._console.is_terminal or (not now and self._clock() - self._last_line < PLAIN_SECONDS):
            return
        self._last_line = self._clock()
        parts = [f"[{self._elapsed()}] {self._phase}", *(f"{label} {text}" for label, text in self._written())]
        self._console.print(", ".join(parts), markup=False, soft_wrap=True)

    def _elapsed(self) -> str:
        return duration(self._clock() - self._started)

    def _display(self) -> Group:
        head = Text.assemble(
            ("Apogee  ", "bold"),
            (self._phase, "bold cyan"),
            f"  {duration(self._clock() - self._phase_started)}  (all: {self._elapsed()})",
        )
        step = self._facts.get("step")
        done = step if isinstance(step, int | float) else 0
        table = Table.grid(padding=(0, 2))
        written = self._written()
        for left, right in zip(written[::2], [*written[1::2], ("", "")], strict=False):
            table.add_row(Text(left[0], "dim"), left[1], Text(right[0], "dim"), right[1])
        bar = Table.grid()  # a bar alone ends no line
        bar.add_row(ProgressBar(total=max(1, self.total), completed=done, width=60))
        return Group(head, bar, table)


def result_table(summary: Mapping[str, Any], folder: Path) -> Group:
    """Distortion and motion before and after with their intervals, then the paths of what was made."""
    table = Table("", "before", "after", title="Result (95% intervals)", title_justify="left", title_style="bold")
    distortion, motion = summary["distortion"], summary["motion"]
    table.add_row("distorted videos", *(_distortion_cell(distortion[phase]) for phase in ("before", "after")))
    table.add_row("motion, px per frame", *(_motion_cell(motion[phase]) for phase in ("before", "after")))
    lines = []
    if motion["relative_change"] is not None:
        lines.append(f"motion changed by {signed_percent(motion['relative_change'])}")
    run = RunFolder(folder)
    for label, path in (("report", run.report_file), ("figures", run.summary_file), ("adapter", run.adapter)):
        if path.exists():
            lines.append(f"{label:8} {path}")
    # Paths are kept on one line, so that they can be copied and clicked.
    return Group(table, *(Text(line, no_wrap=True, overflow="ignore") for line in lines))


def _distortion_cell(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "not measured"
    interval = f"{percent(figures['rate_low'])} to {percent(figures['rate_high'])}"
    return f"{percent(figures['rate'])}  ({interval})\n{figures['distorted']} of {figures['videos']}"


def _motion_cell(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "not measured"
    return f"{figures['mean']:.2f}  ({figures['low']:.2f} to {figures['high']:.2f})"
