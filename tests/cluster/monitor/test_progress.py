import io
import re

import pytest
from rich.console import Console

from cluster.monitor.progress import Progress
from cluster.report.run import write_summary
from tests.cluster.fake_run import fake_run


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plain() -> tuple[Progress, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    return Progress(10, console=Console(file=out, width=100), clock=clock), clock, out


def test_without_a_terminal_a_line_comes_at_most_every_ten_seconds():
    progress, clock, out = plain()
    with progress:
        progress.phase("online")
        for step in range(1, 41):  # one a second
            clock.now += 1
            progress.update(step=step / 4, loss=0.5)
    lines = out.getvalue().splitlines()
    assert lines[0] == "[0.0 s] online"
    assert [re.match(r"\[(\d+)\.0 s\] online", line)[1] for line in lines] == ["0", "10", "20", "30", "40"]  # type: ignore[index]


def test_a_line_names_the_facts_and_keeps_what_was_said_before():
    progress, clock, out = plain()
    with progress:
        progress.phase("online")
        progress.update(step=2, implicit_accuracy=0.625, pairs_kept=1234, measured="2 of 8", queue=3)
        clock.now += 30
        progress.update(step=5, loss=0.51234)
    assert out.getvalue().splitlines()[-1] == (
        # 3 steps in 30 s, 5 to go
        "[30.0 s] online, step 5 of 10, left 50.0 s, implicit accuracy 0.625, pairs kept 1,234, measured 2 of 8, "
        "queue 3, loss 0.512"
    )


def test_what_is_counted_may_be_called_otherwise():
    out = io.StringIO()
    with Progress(0, unit="item", console=Console(file=out, width=100), clock=Clock()) as progress:
        progress.phase("encoding")
        progress.phase("reading", total=30)
        progress.update(step=12, bad="2")
        progress.phase("done")
    assert "done, item 12 of 30, bad 2" in out.getvalue()


def test_a_restarted_learner_has_more_left():
    progress, clock, out = plain()
    with progress:
        progress.update(step=4)
        for step in (6, 3):  # back to a checkpoint
            clock.now += 20
            progress.update(step=step)
    lines = out.getvalue().splitlines()
    assert "left" not in lines[0]  # no pace is known yet
    assert "step 6 of 10, left 40.0 s" in lines[1]  # 2 steps in 20 s, 4 to go
    assert "step 3 of 10, left 1 min 10 s" in lines[2]  # 7 to go at the same pace


def test_a_terminal_gets_one_display_that_is_taken_away_at_the_end():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with Progress(10, console=console, clock=Clock()) as progress:
        progress.phase("online")
        progress.update(step=3, loss=0.25)
    text = out.getvalue()
    assert "Apogee  online" in text and "3/10" in text and "loss 0.25" in text
    assert "\x1b[?25l" in text and "\x1b[?25h" in text  # the cursor is hidden and comes back
    assert text.endswith("\x1b[2K")  # the last thing is wiping the display


def test_a_failure_says_where_it_stopped_and_is_not_swallowed():
    progress, clock, out = plain()
    with pytest.raises(KeyboardInterrupt), progress:
        progress.phase("online")
        clock.now += 75
        raise KeyboardInterrupt
    assert out.getvalue().splitlines()[-1] == "stopped in phase online after 1 min 15 s"


def test_the_result_has_the_figures_with_their_intervals_and_the_paths_that_exist(tmp_path):
    run = fake_run(tmp_path / "run")
    summary = write_summary(run.path, {})
    progress, _, out = plain()
    with progress:
        progress.result(summary, run.path)
    text = out.getvalue()
    for shown in ("21.5%", "(16.9% to 26.9%)", "3.1%", "(1.6% to 6.1%)", "-18.4 points", "(-23.1 to -13.6)"):
        assert shown in text
    assert "55 of 256" in text and "8 of 256" in text
    assert "(1.19 to 1.21)" in text and "(1.13 to 1.15)" in text and "-0.06" in text
    assert "distorted" in text and "motion" in text
    assert str(run.summary_file) in text  # whole, on one line
    assert "adapter" not in text  # there is none in this run


def test_the_result_of_a_partial_run(tmp_path):
    run = fake_run(tmp_path / "run", partial=True)
    progress, _, out = plain()
    progress.result(write_summary(run.path, {}), run.path)
    assert out.getvalue().count("not measured") == 2 and "points" not in out.getvalue()
