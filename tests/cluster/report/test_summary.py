import json
import math
from typing import Any

import numpy as np
import pytest

from actors.evaluator import Evaluator
from buffers.records import Condition, ShownVideos
from cluster.monitor.balance import loop_window, role_figures, step_seconds, suggestion
from cluster.monitor.rows import read_metrics, recent_shares
from cluster.report.run import write_report, write_summary
from cluster.report.summary import phase_seconds, summarise
from tests.cluster.fake_run import WILSON, fake_run, roles, step


@pytest.mark.parametrize("distorted, videos", WILSON)
def test_the_hand_numbers_solve_wilsons_equation(distorted, videos):
    # The interval's ends are the p for which (p_hat - p)^2 = z^2 p (1 - p) / n.
    for end in WILSON[distorted, videos]:
        gap = (distorted / videos - end) ** 2 - 1.959964**2 * end * (1 - end) / videos
        assert abs(gap) < 1e-6


def test_summary_holds_the_figures_worked_out_by_hand(tmp_path):
    run = fake_run(tmp_path / "run")
    summary = write_summary(run.path, {"interrupted": False})

    assert json.loads(run.summary_file.read_text()) == summary
    assert summary["complete"] is True and summary["evaluated"] == ["before", "after"]
    distorted = summary["figures"]["distorted"]
    before, after = distorted["before"], distorted["after"]
    assert (distorted["better"], distorted["unit"]) == ("lower", "of videos")
    assert (before["count"], before["of"], before["value"]) == (55, 256, 0.21484375)
    assert (after["count"], after["of"], after["value"]) == (8, 256, 0.03125)
    # Wilson's with Student's quantile of 255 degrees of freedom, 1.969, in place of 1.960.
    assert tuple(after["interval"]) == pytest.approx(WILSON[8, 256], abs=3e-4)
    change = distorted["change"]
    assert (change["value"], change["rose"], change["fell"]) == (-47 / 256, 0, 47)
    half = 1.9693 * math.sqrt(47 * 209 / 256**2 / 255)
    assert change["interval"] == pytest.approx([-47 / 256 - half, -47 / 256 + half], abs=1e-5)
    assert summary["figures"]["motion"]["change"]["value"] == pytest.approx(-0.06)
    human = summary["by_domain"]["human"]["distorted"]
    assert (human["before"]["value"], human["after"]["value"]) == (15 / 64, 2 / 64)
    assert human["change"]["value"] == -13 / 64
    assert summary["texts"] == {"before": {"reason": {"splits": 55}}, "after": {"reason": {"splits": 8}}}
    assert summary["phases_s"] == {"start": 40, "evaluation before": 60, "online": 100, "evaluation after": 754}
    assert summary["verdicts"]["agreement"] == 0.75  # 30 of 40
    bias = summary["verdicts"]["position_bias"]
    assert {name: (each["count"], each["of"]) for name, each in bias.items()} == {
        "all": (1, 10),
        "human": (1, 6),
        "general": (0, 4),
        "human/1": (1, 6),
        "general/3": (0, 4),
    }
    assert summary["verdicts"]["counts"]["label_3"] == 10
    assert summary["versions"] == {"policy": 2} and summary["seeds"] == {"run": 7, "evaluation": 90_000}
    assert summary["steps"]["done"] == summary["steps"]["planned"] == 2
    assert summary["packages"]["numpy"] == np.__version__
    assert summary["interrupted"] is False
    assert not list(run.path.glob("*.tmp"))


def test_balance_counts_the_loop_alone(tmp_path):
    run = fake_run(tmp_path / "run")
    rows = read_metrics(run.metrics_file)

    assert loop_window(rows) == (100, 200)
    # Generator: 130 - 50 busy, 20 - 0 waiting. Learner: (90 -> 6) + 4 waiting, 4 + 6 busy.
    generator, ranker = role_figures(rows)
    assert (generator["busy_s"], generator["waiting_s"]) == (80, 20)
    assert (ranker["busy_s"], ranker["waiting_s"]) == (20, 70)
    assert step_seconds(rows) == [(1, 6, 4), (2, 4, 6)]
    balance = write_summary(run.path, {})["balance"]
    assert balance["generator_busy"] == pytest.approx(0.8)
    assert balance["learner_waiting"] == pytest.approx(0.5)
    assert balance["number"] == 30
    assert "generator.num_actors" in balance["suggestion"]


def test_a_replaced_actor_begins_anew_without_losing_what_was_done():
    seen = ((10, 20, 1), (20, 50, 5), (30, 10, 7), (40, 15, 8))  # at second 30 the second actor answers
    rows = [roles("generator", 0, time=at, busy=busy, waiting=waiting) for at, busy, waiting in seen]
    # Without a phase row the loop is everything: 20 + 30 + 10 + 5, which 40 s of loop then bound.
    assert role_figures(rows)[0]["busy_s"] == 40
    loop = {"time": 100, "kind": "phase", "name": "online", "seconds": 100}
    [whole] = role_figures([*rows, roles("generator", 0, time=99, busy=16, waiting=9), loop])
    assert (whole["busy_s"], whole["waiting_s"]) == (50 + 16, 5 + 9)


@pytest.mark.parametrize(
    "generator, ranker, learner, key",
    [
        (0.95, 0.3, 0.3, "generator.num_actors"),
        (0.2, 0.3, 0.95, "learner.num_workers"),
        (0.5, 0.95, 0.4, "ranker.num_actors"),
        (0.3, 0.3, 0.4, "buffer.max_staleness"),
        (0.9, 0.9, 0.9, "nothing to change"),
    ],
)
def test_the_suggestion_names_the_slower_side(generator, ranker, learner, key):
    assert key in suggestion(generator=generator, ranker=ranker, learner=learner)


def phase(name: str, *, end: float, seconds: float) -> dict[str, Any]:
    return {"time": end, "kind": "phase", "name": name, "seconds": seconds}


def test_two_stages_of_a_kind_are_one_window_and_their_seconds_add_up():
    rows = [
        phase("online: start", end=10, seconds=10),
        phase("online", end=50, seconds=40),
        phase("online: start", end=55, seconds=5),
        step(2, time=70, loss=0.5, wait_s=12.0, step_s=3.0),
        phase("online", end=95, seconds=40),
        phase("offline", end=120, seconds=25),
    ]
    assert loop_window(rows) == (10, 95)
    assert step_seconds(rows) == [(2, 12, 3)]
    assert phase_seconds(rows) == {"online: start": 15, "online": 80, "offline": 25}


def test_an_offline_run_has_its_waiting_and_every_lost_actor(tmp_path):
    run = fake_run(tmp_path / "run", partial=True)
    offline = [
        phase("offline: start", end=10, seconds=10),
        step(1, time=20, loss=0.6, wait_s=8.0, step_s=4.0),
        phase("offline", end=30, seconds=20),
        {"time": 25, "kind": "failure", "role": "generator", "index": 0, "failures": 1, "error": "lost"},
    ]
    assert step_seconds(offline) == [(1, 6, 4)]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in offline))
    summary = write_summary(run.path, {})
    assert (summary["failures"], summary["balance"], summary["verdicts"]) == (1, None, None)
    page = write_report(run.path).read_text()
    assert '<td>actors lost</td><td class="number">1</td>' in page


def test_repeated_steps_count_once(tmp_path):
    config = {
        "name": "x",
        "seed": 0,
        "stages": [{"kind": "online", "steps": 3}],
        "evaluation": {"seed": 1},
        "ranker": {"both_orders": True},
    }
    seconds = {"wait_s": 1.0, "step_s": 1.0}
    rows = [step(n, time=n, loss=loss, **seconds) for n, loss in ((1, 0.9), (2, 0.8), (2, 0.7))]
    steps = summarise(rows, config)["steps"]
    assert (steps["done"], steps["last"]["loss"]) == (2, 0.7)


def test_a_partial_run_says_none_where_nothing_was_measured(tmp_path):
    summary = write_summary(fake_run(tmp_path / "run", partial=True).path, {})
    assert summary["complete"] is False and summary["evaluated"] == ["before"]
    assert summary["figures"]["distorted"]["after"] is None
    assert summary["figures"]["distorted"]["change"] is None
    assert summary["steps"]["done"] == 1


def test_a_fact_cannot_cover_a_figure(tmp_path):
    run = fake_run(tmp_path / "run")
    with pytest.raises(ValueError, match="facts: figures would cover"):
        write_summary(run.path, {"figures": 0})
    assert not run.summary_file.exists()


def test_a_torn_last_line_is_left_out_and_a_broken_one_before_it_is_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"kind": "step"}\n{"kind": "st')
    assert read_metrics(file) == [{"kind": "step"}]
    file.write_text('{"kind": "step"}\n{"kind": "st\n{"kind": "phase"}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a JSON object"):
        read_metrics(file)
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_run_of_an_older_version_is_named_and_not_called_unmeasured(tmp_path):
    run = fake_run(tmp_path / "run")
    run.metrics_file.write_text(run.metrics_file.read_text().replace('"measured"', '"figures"'))
    with pytest.raises(ValueError, match=r"metrics\.jsonl: an older version of Apogee"):
        write_report(run.path)


def test_recent_shares_follow_what_is_new():
    # 10 new verdicts a row; label_1 in the first row alone.
    rows = [{"label_1": 10, "label_2": 0}, {"label_1": 10, "label_2": 10}, {"label_1": 10, "label_2": 10}]
    first, second = recent_shares(rows, ("label_1", "label_2"))
    assert first == [1.0, 0.0, 0.0] and second == [0.0, 1.0, 1.0]  # nothing new in the last row: as before


def test_no_run_here_is_an_error_that_names_the_folder(tmp_path):
    for write in (write_report, lambda path: write_summary(path, {})):
        with pytest.raises(FileNotFoundError, match=r"no run is here \(config\.yaml is missing\)"):
            write(tmp_path)


def test_the_evaluators_own_rows_give_the_hand_numbers(tmp_path, monkeypatch):
    """The seam: what `Evaluator.summary` returns today is what the summary reads."""
    (tmp_path / "white_meter.py").write_text(
        "FIGURES = {'white': ('lower', 'of videos'), 'motion': ('higher', 'pixels')}\n"
        "def measure(frames, prompt):\n"
        "    return {'white': frames[0, 0, 0, 0] > 0, 'motion': frames[1, 0, 0, 0]}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    evaluator = Evaluator("white_meter:measure", tmp_path, 0, 8.0)
    for index in range(128):  # 8 of 256 videos are white in the first frame; motion is 1 and 3 in turn
        video_a, video_b = np.zeros((2, 2, 2, 3), np.uint8), np.zeros((2, 2, 2, 3), np.uint8)
        video_a[0], video_a[1], video_b[1] = 255 * (index < 8), 1, 3
        condition = Condition("c", f"p{index}", "general")
        evaluator.measure("before", 2 * index, [ShownVideos(condition, (video_a, video_b), 8.0, 0, 0.5)])
    row = {"time": 1.0, "kind": "evaluation", "phase": "before", **evaluator.summary("before")}
    config = {
        "name": "x",
        "seed": 0,
        "stages": [{"kind": "online", "steps": 3}],
        "evaluation": {"seed": 1},
        "ranker": {"both_orders": True},
    }
    summary = summarise([json.loads(json.dumps(row))], config)

    white = summary["figures"]["white"]["before"]
    assert white["value"] == 8 / 256
    # Of one prompt one of the two videos is white, eight times: less alike than chance, so as many as there are videos.
    assert (white["of"], white["prompts"]) == (256, 128)
    assert tuple(white["interval"]) == pytest.approx(WILSON[8, 256], abs=1e-3)
    # Each prompt has one video of motion 1 and one of motion 3: prompts do not differ at all.
    assert summary["figures"]["motion"]["before"]["interval"] == [2.0, 2.0]
    assert summary["by_domain"]["general"]["white"]["before"] == white
