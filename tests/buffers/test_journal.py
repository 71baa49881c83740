import errno
import os

import pytest

from buffers.journal import Journal


def test_rows_come_back_in_order(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.append([{"a": 1}, {"a": "ü\n"}])
    journal.append([{"a": 3}])
    journal.close()
    again = Journal(tmp_path / "j.jsonl")
    assert again.rows == [{"a": 1}, {"a": "ü\n"}, {"a": 3}]
    assert again.damage == []


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_cut_off_line_does_not_count_and_is_written_over(tmp_path, cut):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"a":1}\n' + b'{"a":22}\n'[:cut])
    journal = Journal(path)
    assert journal.rows == [{"a": 1}]
    assert "cut off after byte 8" in journal.damage[0]
    assert path.stat().st_size == 8 + cut  # Opening alone changes nothing.
    journal.append([{"a": 3}])
    assert path.read_bytes() == b'{"a":1}\n{"a":3}\n'


def test_a_line_that_is_no_object_is_named_and_the_others_count(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":\xff}\n[2]\n{"a":4}\n')
    journal = Journal(path)
    assert journal.rows == [{"a": 1}, {"a": 4}]
    assert [line.split(":")[0] for line in journal.damage] == ["j.jsonl, line 2", "j.jsonl, line 3"]


def test_a_full_disk_leaves_the_old_rows_and_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.append([{"a": 1}])
    real = os.pwrite

    def half_then_full(descriptor, data, offset):
        if offset > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[: len(data) // 2], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half_then_full)
        with pytest.raises(OSError, match=r"No space left.*j\.jsonl") as error:
            journal.append([{"a": 2222}])
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == b'{"a":1}\n'
    journal.append([{"a": 3}])
    assert Journal(path).rows == [{"a": 1}, {"a": 3}]
