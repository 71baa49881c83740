from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from buffers.people.manifests import Row
from buffers.people.rows import SCHEMA, AnchorRow, ConditionFiles, PairRow, PromptRow, VideoFiles, each_row, read_row


@pytest.fixture
def folder(tmp_path):
    for name in ("1.mp4", "2.mp4", "3.png"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path.resolve()


PAIR = {"prompt": " a dancer ", "domain": "human", "a": "1.mp4", "b": "2.mp4", "label": 3}
ANCHOR = {"prompt": "a dancer", "video": "1.mp4", "polarity": "negative"}


def read(values, folder):
    present = {name: value for name, value in values.items() if value is not None}
    return read_row(Row(7, present), folder=folder, max_characters=20)


def test_the_columns_say_what_a_row_is(folder):
    pair = read({**PAIR, "probabilities": [0.2, 0.1, 0.6, 0.1], "annotator": 4}, folder)
    assert (pair.kind, pair.answer, pair.annotator) == ("pair", 3, "4")
    assert pair.probabilities == [0.2, 0.1, 0.6, 0.1]
    assert pair.condition == ConditionFiles("a dancer", "human")
    assert pair.videos == (VideoFiles(folder / "1.mp4"), VideoFiles(folder / "2.mp4"))
    anchor = read(ANCHOR, folder)
    assert (anchor.kind, anchor.polarity, anchor.videos) == ("anchor", "negative", (VideoFiles(folder / "1.mp4"),))
    prompt = read({"prompt": "a dancer", "first_frame": "3.png"}, folder)
    assert (prompt.kind, prompt.condition.first_frame) == ("prompt", folder / "3.png")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({**PAIR, "lable": 1}, "unknown key 'lable'"),
        ({**PAIR, "a": "4.mp4"}, "a = '4.mp4': no such file"),
        ({**PAIR, "b": "1.mp4"}, "a and b are the same file"),
        ({**PAIR, "b": None}, "b = None; want the path"),
        ({**PAIR, "a": "../1.mp4"}, "a = '../1.mp4' leads out of the manifest's folder"),
        ({**PAIR, "a": "/etc/passwd"}, "a = '/etc/passwd' leads out of the manifest's folder"),
        ({**PAIR, "label": 5}, "label = 5; want 1, 2, 3 or 4"),
        ({**PAIR, "label": True}, "label = True; want 1, 2, 3 or 4"),
        ({**PAIR, "label": None}, "want either a label"),
        ({**PAIR, "choice": "a"}, "want either a label"),
        ({**PAIR, "label": None, "choice": "c"}, "choice = 'c'; want 'a' or 'b'"),
        ({**PAIR, "domain": "animal"}, "domain = 'animal'; want 'human' or 'general'"),
        ({**PAIR, "prompt": "  "}, "prompt = '  '; want the text"),
        ({**PAIR, "prompt": None}, "prompt = None; want the text"),
        ({**PAIR, "prompt": "x" * 21}, "prompt has 21 characters, prompts.max_characters = 20"),
        ({**PAIR, "annotator": [1]}, r"annotator = \[1\]; want a text"),
        ({**PAIR, "probabilities": [0.5, 0.5]}, r"probabilities = \[0.5, 0.5\]; want a list of four"),
        ({**PAIR, "probabilities": [0.5, 0.5, 0.5, 0.5]}, "that sum to 1"),
        ({**PAIR, "probabilities": [1.5, -0.5, 0.0, 0.0]}, "want a list of four"),
        ({**PAIR, "probabilities": "high"}, "probabilities = 'high'; want a list of four"),
        ({**PAIR, "probabilities": [0.7, 0.1, 0.1, 0.1]}, "label = 3 contradicts .* which make 1 the likeliest"),
        ({**PAIR, "probabilities": [0.1, 0.5, 0.3, 0.1]}, "label = 3 contradicts .* which make 2 the likeliest"),
        ({**PAIR, "label": None, "choice": "a", "probabilities": [0.7, 0.1, 0.1, 0.1]}, "want a label"),
        ({**PAIR, "source": "web"}, "source = 'web'; want online, half-online or offline"),
        ({**PAIR, "policy_version": -1}, "policy_version = -1; want a number from 0 on"),
        ({**PAIR, "label_mass": 2}, r"label_mass = 2; want a number in \[0, 1\]"),
        ({**ANCHOR, "polarity": "good"}, "polarity = 'good'; want 'positive' or 'negative'"),
        ({**ANCHOR, "polarity": None}, "polarity = None; want"),
        ({**ANCHOR, "label": 1}, "unknown key 'label'"),
        ({"prompt": "a dancer", "first_frame": "5.png"}, "first_frame = '5.png': no such file"),
        ({"video": "1.mp4", "polarity": "positive"}, "prompt = None"),
    ],
)
def test_a_bad_row_says_which_column_holds_what_and_what_is_right(folder, values, why):
    with pytest.raises(ValueError, match=why):
        read(values, folder)


@pytest.mark.parametrize("probabilities", [[0.1, 0.4, 0.35, 0.15], [0.25, 0.45, 0.3, 0.0]])
def test_a_label_may_be_the_likeliest_or_the_likeliest_of_the_likelier_video(folder, probabilities):
    """Label 2 is the likeliest of both; in the second, video A is the likelier one, and 3 its likeliest label."""
    assert read({**PAIR, "label": 2, "probabilities": probabilities}, folder).answer == 2
    if probabilities[0] + probabilities[2] > 0.5:
        assert read({**PAIR, "label": 3, "probabilities": probabilities}, folder).answer == 3


def why_not(values, folder) -> str:
    with pytest.raises(ValueError) as raised:
        read(values, folder)
    return str(raised.value)


@pytest.mark.parametrize("column", ["prompt", "annotator", "a", "exact_b", "domain", "choice", "id", "a_id", "source"])
@pytest.mark.parametrize(("bad", "named"), [("\ud83d", r"\ud83d"), ("\udce9", r"\udce9"), ("\0", r"\x00")])
def test_what_is_no_text_is_named_by_its_column_in_every_column(folder, column, bad, named):
    said = why_not({**PAIR, column: f"caf{bad} "}, folder)
    assert said.startswith(f"{column} = 'caf{named} ': character 4, '{named}', is no text")
    said.encode()  # so that it can be printed and written anywhere


def test_whole_characters_of_any_plane_are_text(folder):
    assert read({**PAIR, "prompt": "😀 ü \u2028 é"}, folder).prompt == "😀 ü \u2028 é"


@pytest.mark.parametrize(
    "values",
    [
        {**PAIR, "prompt": "x" * 100_000 + "\0"},
        {**PAIR, "a": "x" * 100_000},
        {**PAIR, "a": "../" * 100_000},
        {**PAIR, "domain": "x" * 100_000},
        {**PAIR, "label": "x" * 100_000},
        {**PAIR, "x" * 100_000: 1},
        {**PAIR, "probabilities": [0.25] * 100_000},
        {**PAIR, "prompt": " " * 100_000},
    ],
)
def test_a_long_value_is_cut_in_what_is_said_of_it(folder, values):
    assert len(why_not(values, folder).replace(str(folder), "")) < 500


def test_a_link_is_followed_and_a_path_that_leads_out_is_not(folder):
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    (outside / "5.mp4").write_bytes(b"outside")
    (folder / "link.mp4").symlink_to(outside / "5.mp4")
    (folder / "videos").symlink_to(outside)
    (folder / "circle.mp4").symlink_to("circle.mp4")
    assert read({**PAIR, "a": "link.mp4"}, folder).a == folder / "link.mp4"
    assert read({**PAIR, "a": "videos/5.mp4"}, folder).a == folder / "videos" / "5.mp4"
    assert read({**PAIR, "a": "videos/../1.mp4"}, folder).a == folder / "1.mp4"
    assert read({**PAIR, "a": str(folder / "1.mp4")}, folder).a == folder / "1.mp4"
    assert read({**PAIR, "a": f"../{folder.name}/1.mp4"}, folder).a.samefile(folder / "1.mp4")
    for path in (str(outside / "5.mp4"), f"../{outside.name}/5.mp4", f"videos/../../{outside.name}/5.mp4"):
        said = why_not({**PAIR, "a": path}, folder)
        assert f"leads out of the manifest's folder, {folder}; put the file or a link to it there" in said
    assert "a and b are the same file, link.mp4" in why_not({**PAIR, "a": "link.mp4", "b": "videos/5.mp4"}, folder)
    (outside / "5.mp4").unlink()
    assert "no such file in " in why_not({**PAIR, "a": "link.mp4"}, folder)
    assert why_not({**PAIR, "a": "link.mp4"}, folder).endswith("; it is a link that leads to no file")
    assert "it is a link that leads to no file" in why_not({**PAIR, "a": "circle.mp4"}, folder)


def test_a_folder_has_two_names_if_one_is_a_link(folder):
    alias = folder.parent / f"{folder.name}-alias"
    alias.symlink_to(folder)
    assert read({**PAIR, "a": str(alias / "1.mp4")}, folder).a.samefile(folder / "1.mp4")
    assert read({**PAIR, "a": str(folder / "1.mp4")}, alias).a.samefile(folder / "1.mp4")
    assert "a and b are the same file" in why_not({**PAIR, "a": str(folder / "1.mp4"), "b": "1.mp4"}, alias)


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        (" 1.mp4", "; there is '1.mp4'"),
        ("1.mp4 ", "; there is '1.mp4'"),
        ("1.MP4", "; there is '1.mp4'"),
        ("cafe\u0301.mp4", "; there is 'caf\u00e9.mp4'"),
        ("videos\\1.mp4", "; between folders, write '/'"),
        ("9.mp4", ""),
        ("none/1.mp4", ""),
        (".", ""),
        ("x" * 300, ""),
    ],
)
def test_a_path_to_no_file_says_what_may_be_meant(folder, written, hint):
    (folder / "caf\u00e9.mp4").touch()
    assert why_not({**PAIR, "a": written}, folder).endswith(f"no such file in {folder}{hint}")


@pytest.mark.parametrize(
    ("written", "who"), [(4, "4"), ("4.0", "4"), ("007", "007"), ("4.50", "4.50"), ("v4.0", "v4.0"), ("ann ", "ann ")]
)
def test_an_annotator_is_a_name_or_a_number(folder, written, who):
    assert read({**PAIR, "annotator": written}, folder).annotator == who


def test_a_moment_is_no_annotator(folder):
    assert "annotator = datetime" in why_not({**PAIR, "annotator": datetime(2026, 1, 2)}, folder)
    assert "want a text" in why_not({**PAIR, "annotator": True}, folder)
    assert "policy_version" in why_not({**PAIR, "policy_version": 2**63}, folder)


def test_what_is_written_as_parquet_is_read_back_the_same(folder):
    """A manifest as `apogee data export` writes it: columns that a row has not are null in it."""
    said: dict[str, Any] = {
        "label_mass": 1.0,
        "agreed": True,
        "first_shown": 2,
        "policy_version": 4,
        "source": "online",
    }
    ids: dict[str, Any] = {"id": "p", "a_id": "a", "b_id": "b", "condition_id": "c"}
    pair: dict[str, Any] = {**PAIR, "prompt": "a"}
    written = [
        PairRow(**pair, probabilities=[0.0, 0.0, 1.0, 0.0], judged_as="general", **said, **ids),
        PairRow(prompt="a", a=Path("1.mp4"), b=Path("2.mp4"), choice="a", id="007"),
        AnchorRow(prompt="b", domain="human", video=Path("1.mp4"), polarity="negative", video_id="v"),
        PromptRow(prompt="c", first_frame=Path("3.png")),
    ]
    columns = [row.model_dump(mode="json", exclude_unset=True) for row in written]
    pq.write_table(pa.Table.from_pylist(columns, schema=SCHEMA), folder / "manifest.parquet")
    read = [row for _, row in each_row(folder / "manifest.parquet")]
    assert [row.kind for row in read] == ["pair", "pair", "anchor", "prompt"]
    for old, new in zip(written, read, strict=True):
        files = {name for name in ("a", "b", "video", "first_frame") if getattr(old, name, None)}
        assert new.model_dump(exclude=files) == old.model_dump(exclude=files)
        assert all(getattr(new, name) == folder / getattr(old, name) for name in files)
