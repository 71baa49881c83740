import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from buffers.people.labelled_pairs import LabelledPair, read_labelled_pairs


def manifest(folder: Path, *rows: Any) -> Path:
    """A manifest of these rows (text as it is, else as JSON) beside two files."""
    for name in ("1.mp4", "2.mp4"):
        (folder / name).touch()
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def row(**changed: Any) -> dict[str, Any]:
    given = {"a": "1.mp4", "b": "2.mp4", "domain": "human", "label": 3} | changed
    return {key: value for key, value in given.items() if value is not None}


def test_labels_and_choices(tmp_path: Path) -> None:
    path = manifest(tmp_path, row(), "", row(label=None, choice="b", domain="general", criterion="melts"))
    pairs, problems = read_labelled_pairs(path)
    one, two = tmp_path.resolve() / "1.mp4", tmp_path.resolve() / "2.mp4"
    assert pairs == [
        LabelledPair(a=one, b=two, domain="human", label=3),
        LabelledPair(a=one, b=two, domain="general", choice="b", criterion="melts"),
    ]
    assert [pair.right for pair in pairs] == [(3,), (2, 4)]
    assert [pair.a_is_better for pair in pairs] == [True, False]
    assert pickle.loads(pickle.dumps(pairs)) == pairs  # Ray sends them to the judge's workers.
    assert problems == []


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "holds [1]; want an object"),
        (row(lable=1), "unknown key 'lable'; the keys are a, b, domain, label, choice, criterion"),
        (row(a=None), "a = None; want the path of a file"),
        (row(a="3.mp4"), "a = '3.mp4': no such file"),
        (row(a="../1.mp4"), "a = '../1.mp4' leads out of the manifest's folder"),
        (row(b="1.mp4"), "a and b are the same file, 1.mp4"),
        (row(b="./1.mp4"), "a and b are the same file, 1.mp4"),
        (row(domain="people"), "domain = 'people'; want 'human' or 'general'"),
        (row(label=5), "label = 5; want 1, 2, 3 or 4"),
        (row(label=True), "label = True; want 1, 2, 3 or 4"),
        (row(label="1"), "label = '1'; want 1, 2, 3 or 4"),
        (row(label=None), "want either a label (1 to 4) or a choice ('a' or 'b')"),
        (row(choice="a"), "want either a label (1 to 4) or a choice ('a' or 'b')"),
        (row(criterion=3), "criterion = 3; want a text"),
        (row(label=None, choice="A"), "choice = 'A'; want 'a' or 'b'"),
    ],
)
def test_a_bad_row_is_named_and_left_out_only_if_asked(bad: Any, says: str, tmp_path: Path) -> None:
    path = manifest(tmp_path, row(), bad, row())
    with pytest.raises(ValueError) as raised:
        read_labelled_pairs(path)
    assert f"{path}, row 2: " in str(raised.value) and says in str(raised.value)
    pairs, problems = read_labelled_pairs(path, skip_bad_rows=True)
    assert len(pairs) == 2
    assert problems == [str(raised.value)]


def test_many_bad_rows_are_counted_not_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 10: not JSON[^\n]*\nand 15 more bad rows$"):
        read_labelled_pairs(manifest(tmp_path, *["{"] * 25))


def test_nothing_usable_is_an_error_also_where_bad_rows_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no usable pair"):
        read_labelled_pairs(manifest(tmp_path, "{"), skip_bad_rows=True)
    with pytest.raises(FileNotFoundError, match="no manifest"):
        read_labelled_pairs(tmp_path / "none.jsonl")


def test_one_bad_text_does_not_lose_the_others_or_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(
        tmp_path, row(), row(criterion="\ud83d"), row(label=3.0), row(label=None), '{"a": "\\u0000"}', row(label=3.5)
    )
    with path.open("ab") as file:
        file.write(b'{"a": "1.mp4", "b": "2.mp4", "domain": "human", "label": 1, "criterion": "caf\xe9"}\n')
    pairs, problems = read_labelled_pairs(path, skip_bad_rows=True)
    assert [pair.label for pair in pairs] == [3, 3]
    columns = [
        "criterion = '\\ud83d'",
        "want either a label",
        "a = '\\x00'",
        "label = 3.5; want",
        "criterion = 'caf\\udce9'",
    ]
    for number, column, problem in zip((2, 4, 5, 6, 7), columns, problems, strict=True):
        assert problem.startswith(f"{path}, row {number}: ") and column in problem
        print(problem)
    assert len(capsys.readouterr().out.splitlines()) == 5
