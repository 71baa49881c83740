from pathlib import Path

from buffers.people.exported import exported


def test_any_id_makes_a_name_of_one_file_that_can_be_written(tmp_path: Path) -> None:
    ids = ["a/b", "a%2Fb", "..", ".", "ü" * 30, "ü" * 60, "x" * 200, "x" * 201, "x" * 5000 + "1", "x" * 5000 + "2"]
    for id_ in ids:
        path = tmp_path / exported("videos", id_, ".safetensors")
        assert path.parent.resolve() == tmp_path / "videos"
        path.parent.mkdir(exist_ok=True)
        path.touch(exist_ok=False)
    assert exported("videos", "c1-2", ".mp4") == "videos/c1-2.mp4"
