"""Kinds of videos and rows, and what becomes of each; docs/inputs.md says what the tests hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from buffers.people.rows import each_row
from media.video_read import frame_times, read_video
from tests.inputs import READ, says
from tests.media.test_video_shown import FRAMES, X264, X265, coded, ffmpeg, numbered, with_matrix

PAGE = Path(__file__).parents[1] / "docs" / "inputs.md"

Make = Callable[[Path], Path]


def video(name: str, options: str) -> Make:
    return lambda folder: coded(folder / name, options)


def cut(folder: Path) -> Path:
    whole = coded(folder / "whole.mp4", X264 + " -bf 2 -g 12")
    ffmpeg("-ss", "1.3", "-i", str(whole), "-c", "copy", str(folder / "v.mp4"))
    return folder / "v.mp4"


def half(name: str, options: str) -> Make:
    def make(folder: Path) -> Path:
        path = coded(folder / name, options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return make


def damaged(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, numbered().shape, dtype=np.uint8)
    path = coded(folder / "v.mp4", X264, noise)
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(1).integers(len(data) // 3, len(data) * 4 // 5, 60):
        data[place] ^= 0xFF
    path.write_bytes(data)
    return path


def written(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


HDR = "-vf setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"

VIDEOS: dict[str, tuple[Make, str]] = {
    "H.264 with B-frames in mp4": (video("v.mp4", X264 + " -bf 2"), READ),
    "H.264 with B-frames in AVI, which has decode times only": (video("v.avi", X264 + " -bf 2"), READ),
    "HEVC in Matroska": (video("v.mkv", X265 + " -bf 3"), READ),
    "VP9 in WebM": (video("v.webm", "-c:v libvpx-vp9 -b:v 200k"), READ),
    "VP8 with hidden frames": (video("v.webm", "-c:v libvpx -auto-alt-ref 1 -lag-in-frames 16 -b:v 200k"), READ),
    "MPEG-4 in AVI": (video("v.avi", "-c:v mpeg4 -bf 2 -q:v 2"), READ),
    "uncompressed": (video("v.avi", "-c:v rawvideo"), READ),
    "turned by 90 degrees": (
        lambda folder: with_matrix(coded(folder / "v.mp4", X264), 0, 1, -1, 0),
        READ + ", as it is shown",
    ),
    "pixels that are not square": (video("v.mp4", X264 + " -vf setsar=2/1"), READ + ", as it is shown"),
    "cut by an edit list": (cut, READ + ", without what is never shown"),
    "half of an mp4": (half("v.mp4", X264), "not a video that can be decoded"),
    "half of an mp4 whose index comes first": (
        half("v.mp4", X264 + " -movflags +faststart"),
        "is cut off: it holds … frames that its index lists",
    ),
    "half of a Matroska file": (half("v.mkv", X264), "is cut off: it has … bytes that it declares"),
    "damaged data": (damaged, "is damaged"),
    "HDR": (video("v.mp4", f"{X264} {HDR}"), "is HDR (PQ); convert it: ffmpeg"),
    "one frame": (lambda folder: coded(folder / "v.mp4", X264, numbered(1)), "holds 1 frames that are shown"),
    "an empty file": (written("v.mp4", b""), "is empty"),
    "a text": (written("v.mp4", b"this is no video\n" * 40), "not a video that can be decoded"),
}


@pytest.mark.parametrize(("make", "words"), VIDEOS.values(), ids=list(VIDEOS))
def test_a_video_is_read_or_refused(make: Make, words: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    if not words.startswith(READ):
        with pytest.raises(ValueError) as refused:
            frame_times(path)
            read_video(path)
        assert says(str(refused.value), f"{path}: … {words}"), refused.value
        return
    frames, _ = read_video(path)
    ground = frames[:, frames.shape[1] // 2, frames.shape[2] // 2, 0].astype(int)  # counts the frames
    hidden = FRAMES - len(frames)
    assert (hidden > 0) == ("never shown" in words)
    assert np.abs(ground - (20 + 8 * np.arange(hidden, FRAMES))).max() < 8
    assert frames.shape[1:3] == {"turned by 90 degrees": (64, 48), "pixels that are not square": (48, 128)}.get(
        next(kind for kind, (each, _) in VIDEOS.items() if each is make), (48, 64)
    )


PAIR = {"prompt": "a dancer", "domain": "human", "a": "1.mp4", "b": "2.mp4", "label": 3}


def lines(**columns: Any) -> Make:
    return lambda folder: written("pairs.jsonl", (json.dumps(PAIR | columns) + "\n").encode())(folder)


def line(text: str) -> Make:
    return written("pairs.jsonl", text.encode("utf-8", "surrogateescape"))


def csv_with(delimiter: str) -> Make:
    rows = delimiter.join(PAIR) + "\n" + delimiter.join(str(value) for value in PAIR.values()) + "\n"
    return written("pairs.csv", rows.encode())


def parquet(features: dict[str, Any], **columns: Any) -> Make:
    def make(folder: Path) -> Path:
        table = pa.table({name: [value] for name, value in (PAIR | columns).items()})
        said = {"huggingface": json.dumps({"info": {"features": features}})} if features else {}
        pq.write_table(table.replace_schema_metadata(said), folder / "pairs.parquet")
        return folder / "pairs.parquet"

    return make


def linked(folder: Path) -> Path:
    """A hub's cache: the manifest and the videos are links to files outside of the folder."""
    (folder / "blobs").mkdir()
    (folder / "snapshot").mkdir()
    for name in ("1.mp4", "2.mp4"):
        (folder / "blobs" / name).write_bytes(name.encode())
        (folder / "snapshot" / name).symlink_to(folder / "blobs" / name)
    line(json.dumps(PAIR))(folder / "blobs")
    (folder / "snapshot" / "pairs.jsonl").symlink_to(folder / "blobs" / "pairs.jsonl")
    return folder / "snapshot" / "pairs.jsonl"


LABELS = {"label": {"_type": "ClassLabel", "names": ["1", "2", "3", "4"]}}

ROWS: dict[str, tuple[Make, str]] = {
    "a label": (lines(), READ),
    "a class label of `datasets`": (parquet(LABELS, label=2), READ + ", as the label of that name"),
    "a class label without such a name": (parquet(LABELS, label=7), "label: class label 7 has no name"),
    "a whole float, as pandas writes": (lines(label=3.0), READ),
    "NaN beside a choice": (lines(label=float("nan"), choice="a"), READ + ", as no value"),
    "half a label": (lines(label=3.5), "label = 3.5; want 1, 2, 3 or 4"),
    "a label as text": (lines(label="3"), "label = '3'; want 1, 2, 3 or 4"),
    "half an emoji": (lines(prompt="a cat \ud83d"), "prompt = … is no text"),
    "an annotator that is no text": (lines(annotator="\ud83d"), "annotator = … is no text"),
    "bytes that are not UTF-8": (line('{"prompt": "caf\udce9", "a": "1.mp4", "b": "2.mp4", "label": 1}'), "is no text"),
    "a key given twice": (line('{"label": 1, "label": 2}'), "not JSON (key 'label' is given twice)"),
    "a list of rows": (line(json.dumps([PAIR])), "holds … want an object"),
    "CSV with commas": (csv_with(","), READ),
    "CSV with semicolons": (csv_with(";"), READ),
    "CSV with tabs": (csv_with("\t"), READ),
    "a folder of links": (linked, READ),
    "a path that leaves the folder": (lines(a="../1.mp4"), "leads out of the manifest's folder"),
    "no such file": (lines(a="9.mp4"), "a = '9.mp4': no such file"),
}


@pytest.mark.parametrize(("make", "words"), ROWS.values(), ids=list(ROWS))
def test_a_row_is_read_or_refused(make: Make, words: str, tmp_path: Path) -> None:
    for name in ("1.mp4", "2.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    ((_, row),) = each_row(make(tmp_path), max_characters=2000)
    if words.startswith(READ):
        assert (row.prompt, row.answer) == ("a dancer", "a" if "no value" in words else 3)
    else:
        assert isinstance(row, str) and says(row, words), row


def test_the_page_is_what_the_tests_say() -> None:
    from docs.inputs_page import page

    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m docs.inputs_page > docs/inputs.md"
