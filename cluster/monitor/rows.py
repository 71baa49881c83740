"""The rows of a run's `metrics.jsonl`, read back: for the summary and the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def read_metrics(path: Path) -> list[Row]:
    """The rows of a run's `metrics.jsonl`; none if there is no file. A torn last line (a killed run) is left out.

    Raises ValueError naming the line if anything before the last line is not a JSON object.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            if number == len(lines):  # only a line without its newline can be torn
                break
            raise ValueError(f"{path}, line {number}: not a JSON object: {line[:80]!r}") from error
    return rows


def of_kind(rows: list[Row], kind: str) -> list[Row]:
    return [row for row in rows if row.get("kind") == kind]


def step_rows(rows: list[Row]) -> list[Row]:
    """One row for each learner step, the last one if a restarted learner repeated steps."""
    last = {row["step"]: row for row in of_kind(rows, "step")}
    return [last[step] for step in sorted(last)]


def glance_rows(rows: list[Row]) -> list[Row]:
    """One row for each evaluation inside a stage, the last one if steps were repeated."""
    last = {row["step"]: row for row in of_kind(rows, "glance")}
    return [last[step] for step in sorted(last)]


def evaluation_rows(rows: list[Row]) -> dict[str, Row]:
    """By phase. Raises ValueError if an older version wrote them, which kept no value of a single video."""
    evaluations = {row["phase"]: row for row in of_kind(rows, "evaluation")}
    if any("measured" not in row for row in evaluations.values()):
        raise ValueError(
            "metrics.jsonl: an older version of Apogee measured the videos and kept only means, nothing to pair; "
            "end the run with that version, or start anew with out=FOLDER"
        )
    return evaluations


def recent_shares(verdicts: list[Row], keys: Sequence[str]) -> list[list[float]]:
    """For each key its share of what came in since some rows ago (an eighth of all rows), row by row.

    Rows count from the start of the run. Shares of everything so far would hide late changes.
    """
    counts = np.array([[row.get(key, 0) for key in keys] for row in verdicts]).reshape(len(verdicts), len(keys))
    back = max(1, len(verdicts) // 8)
    earlier = np.concatenate([np.zeros_like(counts[:back]), counts[:-back]])
    # A run that goes on after a kill may have lost the newest counts of before.
    new = np.maximum(0, counts - earlier)
    totals = new.sum(axis=1)
    # If nothing is new, the shares stay as they were.
    latest = np.maximum.accumulate(np.where(totals > 0, np.arange(len(totals)), 0))
    return (new / np.maximum(1, totals)[:, None])[latest].T.tolist()


def without_stamp(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in ("kind", "time")}
