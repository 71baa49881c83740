import csv
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from buffers.people.labelled_pairs import read_labelled_pairs
from buffers.people.manifests import Row, manifest_folder, read_rows

ROWS = [
    {"a": "1.mp4", "b": "2.mp4", "domain": "human", "label": 3, "criterion": 'a, "quoted"\nword, ü'},
    {"a": "2.mp4", "b": "1.mp4", "domain": "general", "choice": "b"},
    {"a": "1.mp4", "b": "2.mp4", "domain": "human", "label": 1, "criterion": "007"},
]
COLUMNS = ("a", "b", "domain", "label", "choice", "criterion")


def written(folder: Path, kind: str, rows=ROWS) -> Path:
    """The same rows in each format."""
    path = folder / f"pairs.{kind}"
    table = pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in rows])
    if kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    elif kind == "csv":
        with path.open("w", newline="") as file:
            lines = csv.DictWriter(file, COLUMNS)
            lines.writeheader()
            lines.writerows(rows)
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:  # What `datasets.Dataset.save_to_disk` writes: Arrow streams, and a state that lists them.
        path.mkdir()
        for number, part in enumerate((table.slice(0, 2), table.slice(2))):
            with pa.ipc.new_stream(path / f"data-{number}.arrow", table.schema) as stream:
                stream.write_table(part)
        files = [{"filename": f"data-{number}.arrow"} for number in range(2)]
        (path / "state.json").write_text(json.dumps({"_data_files": files, "_split": None}))
        (path / "dataset_info.json").write_text("{}")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "dataset"])
def test_every_format_holds_the_same_rows(tmp_path, kind):
    path = written(tmp_path, kind)
    found = list(read_rows(path))
    assert [row.values for row in found] == ROWS and not any(row.problem for row in found)
    # Where people can open the file, a row's number is that of its line.
    assert [row.number for row in found] == {"jsonl": [1, 3, 5], "csv": [2, 4, 5]}.get(kind, [1, 2, 3])
    for name in ("1.mp4", "2.mp4"):
        (manifest_folder(path) / name).touch()
    pairs, problems = read_labelled_pairs(path)
    assert [pair.right for pair in pairs] == [(3,), (2, 4), (1,)] and problems == []


def test_malformed_rows_are_named_and_the_others_come(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1.mp4\n\n1,"2"x\n3.mp4,4.mp4\n5,6,7\n')
    assert list(read_rows(path)) == [
        Row(2, {}, "has 1 cells; the header names 2 columns"),
        Row(4, {}, "not CSV (',' expected after '\"')"),
        Row(5, {"a": "3.mp4", "b": "4.mp4"}),
        Row(6, {}, "has 3 cells; the header names 2 columns"),
    ]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a"\n"text"\n\xff\xfe\n{"a": null}')
    found = list(read_rows(path))
    assert [bool(row.problem) for row in found] == [False, True, True, True, False]
    assert found[2].problem.startswith("holds 'text'; want an object") and found[4] == Row(5, {})


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.txt", b"", r"x\.txt: want a manifest named \.jsonl, \.csv or \.parquet"),
        ("x.csv", b"", r"x\.csv: the first line must name the columns, each once; it holds \[\]"),
        ("x.csv", b"a,a\n1,2\n", r"must name the columns, each once; it holds \['a', 'a'\]"),
        ("x.parquet", b"PAR1 but no more", r"x\.parquet is no Parquet file"),
    ],
)
def test_a_file_of_no_known_format_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        list(read_rows(tmp_path / name))


def test_folders_that_are_no_dataset_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no manifest"):
        read_rows(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match="is no folder that `datasets` saved to disk"):
        read_rows(tmp_path)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match=r"holds several splits; name one: .*/train, .*/test"):
        read_rows(tmp_path)


def test_a_state_cannot_name_a_file_outside_of_its_folder(tmp_path):
    path = written(tmp_path, "dataset")
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../data-0.arrow"}]}))
    assert [row.values for row in read_rows(path)] == ROWS[:2]  # The folder's own file of that name.


def test_a_million_rows_are_streamed(tmp_path):
    path = tmp_path / "many.csv"
    with path.open("w") as file:
        file.write("a,b,domain,label\n")
        file.writelines(f"{number}.mp4,{number + 1}.mp4,human,3\n" for number in range(1_000_000))
    tracemalloc.start()
    last = None
    for row in read_rows(path):
        last = row
        if row.number == 100_000:
            early = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()  # Counting allocations costs more than reading; the rest is for the count of rows.
    assert last == Row(1_000_001, {"a": "999999.mp4", "b": "1000000.mp4", "domain": "human", "label": 3})
    assert early < 2_000_000
