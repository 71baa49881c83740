"""The rows of a manifest in any of four formats; streamed, so that a million of them fit into any memory.

pairs.jsonl      JSON lines
pairs.csv        with a header; an empty cell is no value
pairs.parquet
pairs/           a folder that Hugging Face's `datasets` saved to disk
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

Made = TypeVar("Made")

ROWS_AT_ONCE, SHOWN_PROBLEMS = 1024, 10

NUMBERS: dict[str, pa.DataType] = {
    "label": pa.int8(),
    "probabilities": pa.list_(pa.float64()),
    "policy_version": pa.int64(),
    "label_mass": pa.float64(),
    "agreed": pa.bool_(),
    "first_shown": pa.int8(),
}
"""Columns that are not text. Their cells in a CSV file are read as JSON."""


@dataclass(frozen=True)
class Row:
    """One row: `number` from 1; in a text file, the line that the row begins in. `problem`: why it has no `values`."""

    number: int
    values: dict[str, Any]
    problem: str = ""


def manifest_folder(manifest: Path) -> Path:
    """The folder that the manifest's paths are relative to, and may not leave."""
    return manifest.resolve() if manifest.is_dir() else manifest.resolve().parent


def read_rows(manifest: Path) -> Iterator[Row]:
    """Rows in order; values that are null are left out.

    Raises FileNotFoundError if there is no manifest, ValueError that names a file which has none of these formats.
    """
    if manifest.is_dir():
        return _saved_dataset(manifest)
    if not manifest.is_file():
        raise FileNotFoundError(f"no manifest {manifest}")
    readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
    if manifest.suffix not in readers:
        raise ValueError(
            f"{manifest}: want a manifest named .jsonl, .csv or .parquet, or a folder that `datasets` saved to disk"
        )
    return readers[manifest.suffix](manifest)


def _json_lines(manifest: Path) -> Iterator[Row]:
    with manifest.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values, problem = json.loads(line), ""
            except ValueError as error:
                values, problem = {}, f"not JSON ({error})"
            if not isinstance(values, dict):
                values, problem = {}, f"holds {values!r:.40}; want an object with a value for each column"
            yield Row(number, _present(values), problem)


def _csv(manifest: Path) -> Iterator[Row]:
    with manifest.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = csv.reader(file, strict=True)
        columns = next(lines, [])
        if not columns or len(set(columns)) < len(columns):
            raise ValueError(f"{manifest}: the first line must name the columns, each once; it holds {columns}")
        while True:
            number = lines.line_num + 1
            try:
                cells = next(lines, None)
            except csv.Error as error:
                yield Row(number, {}, f"not CSV ({error})")
                continue
            if cells is None:
                return
            if len(cells) == len(columns):
                yield Row(number, {name: _typed(name, cell) for name, cell in zip(columns, cells, strict=True) if cell})
            elif cells:
                yield Row(number, {}, f"has {len(cells)} cells; the header names {len(columns)} columns")


def _typed(name: str, cell: str) -> Any:
    """The value of a cell: text, or JSON in a column that is not text."""
    with suppress(ValueError):
        return json.loads(cell) if name in NUMBERS else cell
    return cell


def _parquet(manifest: Path) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(manifest)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{manifest} is no Parquet file: {error}") from error
    with file:
        yield from _numbered(file.iter_batches(ROWS_AT_ONCE), manifest)


def _saved_dataset(folder: Path) -> Iterator[Row]:
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        raise ValueError(f"{folder} holds several splits; name one: {', '.join(str(folder / name) for name in splits)}")
    try:
        state = json.loads((folder / "state.json").read_text())
        names = [Path(entry["filename"]).name for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no folder that `datasets` saved to disk: {error}") from error
    return _numbered((batch for name in names for batch in _stream(folder / name)), folder)


def _stream(file: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(file)) as source:
        try:
            yield from pa.ipc.open_stream(source)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} is damaged: {error}") from error


def _numbered(batches: Iterator[pa.RecordBatch], manifest: Path) -> Iterator[Row]:
    number = 0
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                for values in batch.slice(start, ROWS_AT_ONCE).to_pylist():
                    number += 1
                    yield Row(number, _present(values))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{manifest}, after row {number}: damaged ({error})") from error


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def made_or_why(make: Callable[..., Made], *given: Any, **named: Any) -> Made | str:
    """What `make` returns, or a text that says why a row or a file cannot be used."""
    try:
        return make(*given, **named)
    except (ValueError, OSError) as error:
        return str(error)


def listed(problems: Sequence[str], *, of: str, count: int | None = None) -> str:
    """The first problems, a line each, and how many more there are of `count`; `of`: what is bad, such as rows."""
    shown = problems[:SHOWN_PROBLEMS]
    more = (len(problems) if count is None else count) - len(shown)
    return "\n".join([*shown, *([f"and {more:,} more bad {of}"] if more else [])])
