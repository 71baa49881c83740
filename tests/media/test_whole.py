"""Folders of steps: whole or not at all, and never fewer than the newest one."""

import os
import shutil
from pathlib import Path

import pytest

from media.whole import drop_torn_line, step_folder, step_folders, write_whole


def fill(root: Path, step: int, text: str) -> None:
    with step_folder(root, step) as unfinished:
        (unfinished / "state").write_text(text)


def test_the_newest_two_stay_and_a_repeated_step_is_replaced(tmp_path: Path):
    for step, text in ((2, "a"), (4, "b"), (6, "c"), (6, "d")):
        fill(tmp_path, step, text)
    assert [folder.name for folder in step_folders(tmp_path)] == ["00000004", "00000006"]
    assert (tmp_path / "00000006" / "state").read_text() == "d"


def test_what_was_stored_stays_if_the_next_step_cannot_be_written(tmp_path: Path):
    fill(tmp_path, 2, "whole")
    for step in (2, 3):  # a step that is repeated, and a new one
        with pytest.raises(OSError, match="full"), step_folder(tmp_path, step) as unfinished:
            (unfinished / "state").write_text("half")
            raise OSError("the disk is full")
    assert os.listdir(tmp_path) == ["00000002"]
    assert (tmp_path / "00000002" / "state").read_text() == "whole"


def test_a_kill_at_the_last_moment_of_a_new_step_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(tmp_path, 2, "before")

    def killed(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(Path, "rename", killed)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # nothing is cleaned up
    with pytest.raises(SystemExit):
        fill(tmp_path, 3, "after")
    (left,) = step_folders(tmp_path)
    assert (left / "state").read_text() == "before"


@pytest.mark.parametrize("content", ["a word \u00e9\n", b"\x00\xff"])
def test_a_content_is_written_whole_over_what_was_there(content: str | bytes, tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("something longer than the new content")
    write_whole(file, content)
    assert (file.read_text("utf-8") if isinstance(content, str) else file.read_bytes()) == content
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize(
    ("held", "left"), [("one\ntwo\n", "one\ntwo\n"), ("one\ntw", "one\n"), ("on", ""), ("", ""), (None, None)]
)
def test_a_torn_last_line_is_cut_off_and_nothing_else(held: str | None, left: str | None, tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    if held is not None:
        file.write_text(held)
    drop_torn_line(file)
    assert (file.read_text() if file.exists() else None) == left
