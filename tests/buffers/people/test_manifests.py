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


def saved(folder: Path, table: pa.Table, features=None, *, in_schema=True, in_info=True) -> Path:
    """A folder as `datasets.Dataset.save_to_disk` writes it; its own words for columns are in both of two places."""
    folder.mkdir()
    info = {"features": features} if features else {}
    if in_schema and features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": info})})
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps(info if in_info else {}))
    return folder


def class_label(*names: str) -> dict:
    return {"names": list(names), "_type": "ClassLabel"}


def read_values(path: Path) -> list:
    """Each row's values, or its problem."""
    return [row.problem or row.values for row in read_rows(path)]


@pytest.mark.parametrize("where", ["schema", "info", "both", "parquet"])
def test_a_class_label_is_its_name(tmp_path, where):
    """The columns hold indices; what they stand for was written beside them."""
    features = {
        "label": class_label("1", "2", "3.0", "4"),
        "choice": class_label("b", "a"),
        "polarity": class_label("negative", "positive"),
        "domain": class_label("human", "general"),
        "annotator": class_label("007", "ann"),
        "prompt": {"dtype": "string", "_type": "Value"},
    }
    indices = {"label": [2, 3], "choice": [0, 1], "polarity": [1, -1], "domain": [0, 1], "annotator": [0, None]}
    table = pa.table({**indices, "prompt": ["3", "x"]})
    if where == "parquet":
        path = tmp_path / "x.parquet"
        info = {"info": {"features": features}}
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), path)
    else:
        path = saved(tmp_path / "x", table, features, in_schema=where != "info", in_info=where != "schema")
    first = {"label": 3, "choice": "b", "polarity": "positive", "domain": "human", "annotator": "007", "prompt": "3"}
    assert read_values(path) == [first, {"label": 4, "choice": "a", "domain": "general", "prompt": "x"}]


def test_class_labels_without_a_name_and_in_lists(tmp_path):
    table = pa.table({"label": pa.array([4, 0, -2, 1], pa.int16()), "probabilities": [[0], [1], [1], [0, 1]]})
    features = {
        "label": class_label("4", "A melts"),
        "probabilities": {"_type": "List", "feature": class_label("x", "y")},
    }
    assert read_values(saved(tmp_path / "x", table, features)) == [
        "label: class label 4 has no name; the names are ['4', 'A melts']",
        {"label": 4, "probabilities": ["y"]},
        "label: class label -2 has no name; the names are ['4', 'A melts']",
        {"label": "A melts", "probabilities": ["x", "y"]},
    ]
    table = pa.table({"label": [1]})
    assert read_values(
        saved(tmp_path / "y", table, {"label": {"num_classes": 4, "names": None, "_type": "ClassLabel"}})
    ) == ["label: class label 1 has no name; the names are None"]
    assert read_values(saved(tmp_path / "z", table, {"label": {"_type": "Json"}})) == [
        "label: is a 'Json' of `datasets`; want a Value, a ClassLabel or a path"
    ]


@pytest.mark.parametrize("metadata", ["{", "[]", '{"info": 3}', '{"info": {"features": [1]}}'])
def test_damaged_words_of_datasets_are_refused(tmp_path, metadata):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"label": [1]}).replace_schema_metadata({"huggingface": metadata}), path)
    with pytest.raises(ValueError, match=r"x\.parquet: the metadata of `datasets` is damaged"):
        list(read_rows(path))


def test_words_of_datasets_may_be_missing_in_parquet_and_not_in_a_saved_folder(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"label": [1]}).replace_schema_metadata({"huggingface": '{"info": {"features": null}}'}), path
    )
    assert read_values(path) == [{"label": 1}]
    folder = saved(tmp_path / "x", pa.table({"label": [1]}))
    (folder / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match=r"is no folder that `datasets` saved to disk.*: .*dataset_info\.json"):
        read_rows(folder)


def test_a_selection_of_rows_is_not_read_as_all_of_them(tmp_path):
    """An early version of `datasets` saved which rows are meant beside all of them."""
    folder = saved(tmp_path / "x", pa.table({"label": [1, 2, 3]}))
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(ValueError, match=r"it holds a selection of its rows; save what `flatten_indices` makes of it"):
        read_rows(folder)


@pytest.mark.parametrize(
    ("name", "text"), [("dataset_dict.json", "{"), ("dataset_dict.json", "{}"), ("state.json", "[]")]
)
def test_a_saved_folder_whose_own_files_are_damaged_is_refused(tmp_path, name, text):
    folder = saved(tmp_path / "x", pa.table({"label": [1]}))
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=r"x is no folder that `datasets` saved to disk"):
        read_rows(folder)


def test_a_file_in_a_column_is_read_by_its_path_or_refused(tmp_path):
    """What the features Video, Image and Audio of `datasets` are stored as."""
    a = [{"bytes": None, "path": "1.mp4"}, {"bytes": b"\0\1", "path": "1.mp4"}, None, {"bytes": None, "path": None}]
    features = {"a": {"_type": "Video"}}
    assert read_values(saved(tmp_path / "x", pa.table({"a": a, "b": ["2.mp4"] * 4}), features)) == [
        {"a": "1.mp4", "b": "2.mp4"},
        "a: holds a file's bytes; want the path of a file in the manifest's folder",
        {"b": "2.mp4"},
        {"b": "2.mp4"},
    ]


def test_whole_floats_are_numbers_and_nan_is_no_value(tmp_path):
    """As pandas writes columns of whole numbers that have gaps."""
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"label": 3.0, "annotator": NaN}\n{"label": 3.5, "annotator": 4.0}\n{"label": null}\n{"label": 1e300}'
    )
    read = [{"label": 3}, {"label": 3.5, "annotator": 4}, {}]
    assert read_values(path) == [*read, {"label": 1e300}]
    assert type(read_values(path)[0]["label"]) is int
    path = tmp_path / "x.csv"
    path.write_text("label,annotator,agreed\n3.0,,True\n3.5,4,False\nNaN,,null\n")
    assert read_values(path) == [{"label": 3, "agreed": True}, {"label": 3.5, "annotator": "4", "agreed": False}, {}]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"label": [3.0, 3.5, float("nan")], "annotator": [None, 4.0, None]}), path)
    assert read_values(path) == read


def test_columns_of_other_arrow_types(tmp_path):
    moment = pa.array([1, None], pa.timestamp("ns"))
    table = pa.table(
        {
            "prompt": pa.array(["ü", "x"]).dictionary_encode(),
            "a": pa.array(["1.mp4", "2.mp4"], pa.large_string()),
            "b": pa.array(["2.mp4", "1.mp4"], pa.string_view()),
            "label": pa.array([3, None], pa.decimal128(5, 2)),
            "annotator": pa.array([None, None], pa.null()),
            "__index_level_0__": [5, 6],
        }
    )
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    first = {"prompt": "ü", "a": "1.mp4", "b": "2.mp4", "label": 3}
    assert read_values(path) == [first, {"prompt": "x", "a": "2.mp4", "b": "1.mp4"}]
    assert type(read_values(path)[0]["label"]) is int
    pq.write_table(pa.table({"annotator": moment}), path)
    read = [row.values for row in read_rows(path)]
    assert not isinstance(read[0]["annotator"], (str, int)) and read[1] == {}  # `rows.py` wants a text or a number.


def test_a_text_that_is_not_utf_8_is_of_its_own_row(tmp_path):
    broken = pa.array([b"caf\xe9", b"tea"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "x.parquet")
    (first, second) = read_values(tmp_path / "x.parquet")
    assert first.startswith("prompt: 'utf-8' codec can't decode byte 0xe9 in position 3") and second == {
        "prompt": "tea"
    }


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "tsv"])
def test_utf_16_is_named(tmp_path, kind, mark):
    (tmp_path / f"x.{kind}").write_bytes(mark + b"\0a\0,\0b")
    with pytest.raises(ValueError, match=rf"x\.{kind} is UTF-16 text; save it as UTF-8"):
        list(read_rows(tmp_path / f"x.{kind}"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", '\ufeffprompt,label,annotator\r\n"a; b,\tc",3,ann\r\n\r\n,,\r\nx,1,\r\n'),
        ("x.csv", 'prompt;label;annotator\n"a; b,\tc";3;ann\n  \n;;\nx;1;\n'),
        ("X.CSV", '"prompt", "label", "annotator"\n"a; b,\tc", 3, "ann"\n\n\nx, 1,'),
        ("x.tsv", 'prompt\tlabel\tannotator \n"a; b,\tc"\t3\tann\n\n\nx\t1\t'),
        ("x.csv", 'prompt,label,annotator\r"a; b,\tc",3,ann\r\r\rx,1,'),
    ],
)
def test_dialects_of_csv_hold_the_same_rows(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    rows = [Row(2, {"prompt": "a; b,\tc", "label": 3, "annotator": "ann"}), Row(5, {"prompt": "x", "label": 1})]
    assert list(read_rows(tmp_path / name)) == rows


@pytest.mark.parametrize("header", [",a,b", "a,b,", "a,a ,b", "sep=;", 'a,"b'])
def test_a_header_names_each_column_once(tmp_path, header):
    """pandas leaves the name of its index empty; Excel may name the separator first."""
    (tmp_path / "x.csv").write_text(f"{header}\n1,2,3\n")
    with pytest.raises(
        ValueError, match=r"x\.csv(: the first line must name|, line 1: not CSV .*; it must name) the columns"
    ):
        list(read_rows(tmp_path / "x.csv"))
    (tmp_path / "x.csv").write_text(",a,b\n0,1,2\n")
    with pytest.raises(ValueError, match=r"it holds \['', 'a', 'b'\]; pandas leaves its index out with index=False"):
        list(read_rows(tmp_path / "x.csv"))


def test_a_quote_that_is_never_closed_costs_its_own_row(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('prompt,label\n"two\nlines",1\n"never closed,2\n' + "x,3\n" * 3 + '"again,1\ny,4')
    found = list(read_rows(path))
    assert [(row.number, row.values.get("label"), bool(row.problem)) for row in found] == [
        (2, 1, False), (4, None, True), (5, 3, False), (6, 3, False), (7, 3, False), (8, None, True), (9, 4, False),
    ]  # fmt: skip
    path.write_text('prompt,label\n"' + "x,1\n" * 100_000)
    assert [bool(row.problem) for row in read_rows(path)] == [True, *[False] * 99_999]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"label": 1, "label": 2}', "key 'label' is given twice"),
        ('{"prompt": {"x": 1, "x": 1}}', "key 'x' is given twice"),
        (
            '[{"label": 1}, {"label": 2}]',
            "holds [{'label': 1}, {'label': 2}]; want an object with a value for each column",
        ),
        ("[", "begins a JSON array; want an object in each line"),
        ('  [{"label": 1},', "begins a JSON array; want an object in each line"),
        ("{", "not JSON"),
        ('{"label": ' + "9" * 5000 + "}", "not JSON"),
        ('{"prompt": ' + '{"x":' * 100_000, "nested too deeply"),
        ('"' + "x" * 1_000_000 + '"', "holds 'xxx"),
        ("[" + "1," * 100_000 + "1]", "holds [1, 1, 1"),
        ('{"' + "k" * 1_000_000 + '": 1, "' + "k" * 1_000_000 + '": 2}', "is given twice"),
    ],
)
def test_a_line_that_is_no_row_is_named_in_few_words_and_the_next_one_comes(tmp_path, line, says):
    path = tmp_path / "x.jsonl"
    path.write_text(f'\ufeff{{"label": 1}}\r\n{line}\n \n{{"label": 2}}')
    first, bad, last = read_rows(path)
    assert (first, last) == (Row(1, {"label": 1}), Row(4, {"label": 2}))
    assert bad.number == 2 and says in bad.problem and len(bad.problem) < 400


def test_a_column_twice_in_parquet_is_refused(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["label", "label"]), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet: column 'label' is there twice"):
        list(read_rows(tmp_path / "x.parquet"))


def test_the_folder_of_a_manifest_is_the_one_given(tmp_path):
    """A hub's cache: names that are links to files elsewhere."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / "0a1b").write_text('{"a": "1.mp4", "b": "2.mp4", "domain": "human", "label": 3}\n')
    (tmp_path / "snapshot" / "pairs.jsonl").symlink_to("../blobs/0a1b")
    for number in (1, 2):
        (tmp_path / "blobs" / f"c{number}").write_bytes(b"x" * number)
        (tmp_path / "snapshot" / f"{number}.mp4").symlink_to(f"../blobs/c{number}")
    assert manifest_folder(tmp_path / "snapshot" / "pairs.jsonl") == tmp_path / "snapshot"
    ((pair,), _) = read_labelled_pairs(tmp_path / "snapshot" / "pairs.jsonl")
    assert (pair.a, pair.b) == (tmp_path / "snapshot" / "1.mp4", tmp_path / "snapshot" / "2.mp4")
