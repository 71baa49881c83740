"""The rows of a run's `metrics.jsonl`, read back: for the summary and the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_metrics(path: Path) -> list[Row]:
    """The rows of a run's `metrics.jsonl`; none where it is not there. A torn last line (a killed run) is left out.

    Raises ValueError naming the line where anything before the last line is not a JSON object.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # only a line without its newline can be torn
                break
            raise ValueError(f"{path}, line {number}: not a JSON object: {line[:80]!r}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: a JSON object is expected, found {line[:80]!r}")
        rows.append(row)
    return rows


def of_kind(rows: list[Row], kind: str) -> list[Row]:
    return [row for row in rows if row.get("kind") == kind]


def step_rows(rows: list[Row]) -> list[Row]:
    """One row for each learner step, the last one where a restarted learner repeated steps."""
    last = {row["step"]: row for row in of_kind(rows, "step")}
    return [last[step] for step in sorted(last)]


def evaluation_rows(rows: list[Row]) -> dict[str, Row]:
    return {row["phase"]: row for row in of_kind(rows, "evaluation")}


def recent_shares(verdicts: list[Row], keys: Sequence[str]) -> list[list[float]]:
    """For each key its share of what came in since some rows ago (an eighth of all rows), row by row.

    Rows count from the start; shares of everything so far would hide what changes late.
    """
    back = max(1, len(verdicts) // 8)
    shares: list[list[float]] = [[] for _ in keys]
    for index, row in enumerate(verdicts):
        earlier = verdicts[index - back] if index >= back else {}
        # A run that goes on after a kill may have lost the newest counts of before.
        new = [max(0, row.get(key, 0) - earlier.get(key, 0)) for key in keys]
        total = sum(new)
        for place, count in enumerate(new):
            # Nothing new: what was so before still is.
            previous = shares[place][-1] if shares[place] else 0.0
            shares[place].append(count / total if total else previous)
    return shares


def without_stamp(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in ("kind", "time")}
