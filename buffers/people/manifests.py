"""The rows of a manifest in any of four formats; streamed, so that a million of them fit into any memory.

pairs.jsonl      JSON lines, UTF-8
pairs.csv        with a header, UTF-8; an empty cell is no value; semicolons or tabs may stand between cells (.tsv); a
                 space behind each of them is no part of a cell if the header has such spaces
pairs.parquet
pairs/           a folder that Hugging Face's `datasets` saved to disk

A value is what its writer meant. Null, NaN and NaT are no value, and a whole float is that number: pandas writes 3.0
for 3 in a column that has gaps. A ClassLabel of `datasets` is its name, not its index; -1 is no value there. A Video or
an Image of `datasets` is its path; one that holds the file's bytes is refused.
"""

import codecs
import csv
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from configs.keys import shown

Made = TypeVar("Made")

ROWS_AT_ONCE, SHOWN_PROBLEMS = 1024, 10

NUMBERS: dict[str, pa.DataType] = {"label": pa.int8(), "policy_version": pa.int64(), "first_shown": pa.int8()}
NUMBERS |= {"probabilities": pa.list_(pa.float64()), "label_mass": pa.float64(), "agreed": pa.bool_()}
"""Columns that are not text. Their cells in a CSV file, and their names as class labels, are read as JSON."""

_EXACT = 2**53
"""From here on a float may stand for several whole numbers."""
_PLAIN_FEATURES = ("Value", "Sequence", "List", "LargeList", "Video", "Image", "Audio")
"""Features of `datasets` that are stored as they are."""


@dataclass(frozen=True)
class Row:
    """One row: `number` from 1; in a text file, the line that the row begins in. `problem`: why it has no `values`."""

    number: int
    values: dict[str, Any]
    problem: str = ""


def manifest_folder(manifest: Path) -> Path:
    """The folder that the manifest's paths are relative to.

    It is the folder as given: if the manifest is a link, it is the link's folder, not that of its target.
    """
    return manifest.absolute() if manifest.is_dir() else manifest.absolute().parent


def read_rows(manifest: Path) -> Iterator[Row]:
    """Rows in order; values that are null are left out.

    Raises FileNotFoundError if there is no manifest, ValueError that names a file which has none of these formats.
    """
    if manifest.is_dir():
        return _saved_dataset(manifest)
    if not manifest.is_file():
        raise FileNotFoundError(f"no manifest {manifest}")
    readers = {".jsonl": _json_lines, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    if manifest.suffix.lower() not in readers:
        raise ValueError(
            f"{manifest}: want a manifest named .jsonl, .csv or .parquet (.tsv is read as .csv), or a folder that "
            "`datasets` saved to disk"
        )
    return readers[manifest.suffix.lower()](manifest)


def check_encoding(file: Path) -> None:
    """Raises ValueError if a text file says that it is not UTF-8."""
    with file.open("rb") as opened:
        if opened.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError(f"{file} is UTF-16 text; save it as UTF-8")


def _json_lines(manifest: Path) -> Iterator[Row]:
    check_encoding(manifest)
    # Bytes that are not UTF-8 become surrogates, which the row's reader refuses by column.
    with manifest.open(newline="\n", encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values = _json(line)
            except ValueError as error:
                what = "begins a JSON array" if line.lstrip().startswith("[") else f"not JSON ({error})"
                yield Row(number, {}, f"{what}; want an object in each line")
                continue
            if isinstance(values, dict):
                yield _row(number, values.items())
            else:
                yield Row(number, {}, f"holds {shown(values)}; want an object with a value for each column, one a line")


def _json(text: str) -> Any:
    """Raises ValueError, also if an object names a key twice or the text is nested too deeply."""
    try:
        return _JSON.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"key {shown(_repeated([name for name, _ in pairs])[0])} is given twice")
    return values


_JSON = json.JSONDecoder(object_pairs_hook=_object)


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _csv(manifest: Path) -> Iterator[Row]:
    check_encoding(manifest)
    with manifest.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        header = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=header.count)
        records = _records(file, delimiter=delimiter, skipinitialspace=f"{delimiter} " in header, strict=True)
        _, columns = next(records, (1, []))
        if isinstance(columns, str):
            raise ValueError(f"{manifest}, line 1: {columns}; it must name the columns")
        columns = [column.strip() for column in columns]
        if not columns or _repeated(columns) or not all(columns):
            held = shown(columns) + ("; pandas leaves its index out with index=False" if columns[:1] == [""] else "")
            raise ValueError(f"{manifest}: the first line must name the columns, each once; it holds {held}")
        for number, cells in records:
            if isinstance(cells, str):
                yield Row(number, {}, cells)
            elif len(cells) == len(columns):
                given = zip(columns, cells, strict=True)
                yield _row(number, ((name, _typed(name, cell)) for name, cell in given if cell))
            else:
                yield Row(number, {}, f"has {len(cells)} cells; the header names {len(columns)} columns")


def _records(file: Any, **dialect: Any) -> Iterator[tuple[int, list[str] | str]]:
    """The line that each record begins in, and its cells or what is wrong with it; empty ones are left out.

    After a record that is no CSV, reading goes on in the line behind its first: a quote that is never closed takes no
    other row with it.
    """
    ahead: deque[str] = deque()
    number, taken = 1, list[str]()

    def line() -> str:
        taken.append(ahead.popleft() if ahead else file.readline())
        return taken[-1]

    records = csv.reader(iter(line, ""), **dialect)
    while True:
        taken.clear()
        try:
            cells = next(records, [])
        except csv.Error as error:
            cells = f"not CSV ({error})"
            ahead.extendleft(reversed(taken[1:]))
            del taken[1:]
            records = csv.reader(iter(line, ""), **dialect)
        if not taken[0]:
            return
        if isinstance(cells, str) or any(cell.strip() for cell in cells):
            yield number, cells
        number += len(taken)


def _typed(name: str, cell: str) -> Any:
    """The value of a cell: text, or JSON in a column that is not text."""
    if name in NUMBERS:
        with suppress(ValueError):
            return _json({"True": "true", "False": "false"}.get(cell, cell))
    return cell


def _parquet(manifest: Path) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(manifest)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{manifest} is no Parquet file: {error}") from error
    with file:
        yield from _numbered(file.iter_batches(ROWS_AT_ONCE), manifest, {})


def _saved_dataset(folder: Path) -> Iterator[Row]:
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text("utf-8"))["splits"]
            raise ValueError(f"it holds several splits; name one: {', '.join(str(folder / name) for name in splits)}")
        state, info = (json.loads((folder / name).read_text("utf-8")) for name in ("state.json", "dataset_info.json"))
        names = [Path(entry["filename"]).name for entry in state["_data_files"]]
        features = dict(info.get("features") or {})
        if state.get("_indices_data_files"):
            raise ValueError("it holds a selection of its rows; save what `flatten_indices` makes of it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is no folder that `datasets` saved to disk, with one split: {error}") from error
    return _numbered((batch for name in names for batch in _stream(folder / name)), folder, features)


def _stream(file: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(file)) as source:
        try:
            yield from pa.ipc.open_stream(source)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} is damaged: {error}") from error


def _numbered(batches: Iterator[pa.RecordBatch], manifest: Path, features: dict[str, Any]) -> Iterator[Row]:
    """`features`: what `datasets` says of columns, if the batches themselves do not."""
    number = 0
    try:
        for batch in batches:
            if twice := _repeated(batch.schema.names):
                raise ValueError(f"{manifest}: column {twice[0]!r} is there twice")
            # What pandas names so is the index of its table.
            names = [name for name in batch.schema.names if not name.startswith("__index_level_")]
            known = _features(batch.schema, manifest) | features
            for scalars in zip(*batch.select(names).columns, strict=True):
                number += 1
                yield _row(number, zip(names, scalars, strict=True), known)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{manifest}, after row {number}: damaged ({error})") from error


def _features(schema: pa.Schema, manifest: Path) -> dict[str, Any]:
    """What `datasets` says of the columns in the schema's metadata, by the columns' names."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return dict((said.get("info") or {}).get("features") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{manifest}: the metadata of `datasets` is damaged ({error})") from None


def _row(number: int, cells: Iterable[tuple[str, Any]], features: Mapping[str, Any] = MappingProxyType({})) -> Row:
    values: dict[str, Any] = {}
    for name, cell in cells:
        try:
            value = _named(name, _plain(cell), features.get(name))
        except (ValueError, OverflowError) as error:
            return Row(number, {}, f"{name}: {error}")
        if value is not None:
            values[name] = value
    return Row(number, values)


def _plain(value: Any) -> Any:
    """A value of Arrow, pandas or JSON as one of Python's own: None for no value, an int for a whole float."""
    if isinstance(value, pa.StructScalar) and {field.name for field in value.type} == {"bytes", "path"}:
        if value.is_valid and value["bytes"].is_valid:
            raise ValueError("holds a file's bytes; want the path of a file in the manifest's folder")
        value = value["path"] if value.is_valid else None
    value = value.as_py() if isinstance(value, pa.Scalar) else value
    if not isinstance(value, (float, Decimal)):
        return value
    value = float(value)
    return None if math.isnan(value) else int(value) if value.is_integer() and abs(value) < _EXACT else value


def _named(column: str, value: Any, feature: Any) -> Any:
    """What a value of `datasets` stands for: the name of a class label, None if that is -1.

    Raises ValueError if a class label has no such name, or the column is stored as something else than it is.
    """
    feature = {"_type": "List", "feature": feature[0]} if isinstance(feature, list) and feature else feature
    if value is None or not isinstance(feature, dict):
        return value
    kind, names = feature.get("_type", "Value"), feature.get("names")
    if kind == "ClassLabel":
        if not isinstance(value, int) or not isinstance(names, list) or not -1 <= value < len(names):
            raise ValueError(f"class label {shown(value)} has no name; the names are {shown(names)}")
        return None if value == -1 else _plain(_typed(column, str(names[value])))
    if kind not in _PLAIN_FEATURES:
        raise ValueError(f"is a {shown(kind)} of `datasets`; want a Value, a ClassLabel or a path")
    return [_named(column, each, feature.get("feature")) for each in value] if isinstance(value, list) else value


def made_or_why(make: Callable[..., Made], *given: Any, **named: Any) -> Made | str:
    """What `make` returns, or a text that says why a row or a file cannot be used."""
    try:
        return make(*given, **named)
    except (ValueError, OSError) as error:
        return str(error)


def listed(problems: Sequence[str], *, of: str, count: int | None = None) -> str:
    """The first problems, a line each, and how many more there are of `count`; `of`: what is bad, such as rows."""
    first = problems[:SHOWN_PROBLEMS]
    more = (len(problems) if count is None else count) - len(first)
    return "\n".join([*first, *([f"and {more:,} more bad {of}"] if more else [])])
