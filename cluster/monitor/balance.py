"""Generation against learning: who was busy and who waited while the loop ran, and what to change."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from cluster.monitor.rows import Row, of_kind, step_rows

LOOP_PHASES = (("online", "half_online", "distill", "direct_align"), ("distill_aware", "offline"))
"""Phases in which the learner learns, those first in which others work beside it. Waiting outside of them is start-up
or evaluation."""


def loop_window(rows: list[Row]) -> tuple[float, float]:
    """When the first online loop began and the last one ended, seconds since the start of the run.

    If the run has offline stages alone, theirs. If it was killed before one ended: from the end of the phase before to
    the last row.
    """
    ended = of_kind(rows, "phase")
    for names in LOOP_PHASES:
        if loops := [row for row in ended if row["name"] in names]:
            return loops[0]["time"] - loops[0]["seconds"], loops[-1]["time"]
    return max((row["time"] for row in ended), default=0.0), max((row["time"] for row in rows), default=0.0)


def role_figures(rows: list[Row]) -> list[dict[str, Any]]:
    """Busy and waiting seconds of every actor while the loop ran, from its cumulative "roles" rows."""
    start, end = loop_window(rows)
    actors: dict[tuple[str, int], list[Row]] = {}
    for row in of_kind(rows, "roles"):
        if row["time"] <= end:
            actors.setdefault((row["role"], row["index"]), []).append(row)
    figures = []
    for (role, index), seen in sorted(actors.items()):
        before = [row for row in seen if row["time"] <= start][-1:] or [{"busy_s": 0.0, "waiting_s": 0.0}]
        counted = before + [row for row in seen if row["time"] > start]
        # If an actor has no row from before the loop, its seconds since its start count, but at most the loop's.
        length = max(0.0, counted[-1]["time"] - start)
        busy = min(_grown(counted, "busy_s"), length)
        waiting = min(max(0.0, _grown(counted, "waiting_s")), length - busy)
        figures.append({"role": role, "index": index, "busy_s": busy, "waiting_s": waiting})
    return figures


def step_seconds(rows: list[Row]) -> list[tuple[float, float, float]]:
    """For each learner step its number, seconds of waiting while the loop ran, and seconds of work.

    The learner is up before the loop: what it waits until then is start-up, not pace.
    """
    start, _ = loop_window(rows)
    return [
        (row["step"], min(row["wait_s"], max(0.0, row["time"] - row["step_s"] - start)), row["step_s"])
        for row in step_rows(rows)
    ]


def balance(rows: list[Row]) -> dict[str, Any] | None:
    """Generation against training in one number, and what to change.

    `number`: generators' busy share minus the learner's, in points of 100: +100 = all wait for generation, -100 = all
    wait for learning, 0 = even. None if either side has no times.
    """
    actors = role_figures(rows)
    generator, ranker = _busy_share(actors, "generator"), _busy_share(actors, "ranker")
    seconds = step_seconds(rows)
    waited, worked = sum(wait for _, wait, _ in seconds), sum(work for _, _, work in seconds)
    if generator is None or waited + worked <= 0:
        return None
    learner = worked / (waited + worked)
    return {
        "number": round(100 * (generator - learner)),
        "generator_busy": generator,
        "ranker_busy": ranker,
        "learner_waiting": 1 - learner,
        "suggestion": suggestion(generator=generator, ranker=ranker, learner=learner),
    }


def live_balance(latest: Mapping[tuple[str, int], Sequence[Row]]) -> float | None:
    """The number of `balance` while a run goes on. latest: role and index of an actor -> its last "roles" rows."""
    actors = [
        {"role": role, "busy_s": _grown(rows, "busy_s"), "waiting_s": _grown(rows, "waiting_s")}
        for (role, _), rows in latest.items()
    ]
    generator, learner = _busy_share(actors, "generator"), _busy_share(actors, "learner")
    return None if generator is None or learner is None else round(100 * (generator - learner), 1)


def suggestion(*, generator: float, ranker: float | None, learner: float) -> str:
    """One sentence from three busy shares."""
    if learner >= 0.75 and generator >= 0.75:
        return "Both are busy: nothing to change; more devices for both make it faster."
    if learner < 0.75 and ranker is not None and ranker >= max(0.75, generator):
        return "The ranker holds everyone up: raise ranker.num_actors, or show it fewer frames (ranker.frames)."
    if learner < generator:
        return (
            "Generation is the slower side: raise generator.num_actors or lower sampling.steps; the learner has time."
        )
    if learner >= 0.75:
        return "Learning is the slower side: raise learner.num_workers, with devices of the generators if need be."
    return "Each side waits for the other: raise buffer.max_staleness or buffer.capacity, so that they overlap more."


def _busy_share(actors: list[dict[str, Any]], role: str) -> float | None:
    busy = sum(actor["busy_s"] for actor in actors if actor["role"] == role)
    whole = busy + sum(actor["waiting_s"] for actor in actors if actor["role"] == role)
    return busy / whole if whole else None


def _grown(seen: Sequence[Row], key: str) -> float:
    """How much `key` grew. If busy seconds fall, the actor was replaced and began anew at zero."""
    return sum(now[key] - (before[key] if now["busy_s"] >= before["busy_s"] else 0.0) for before, now in pairwise(seen))
