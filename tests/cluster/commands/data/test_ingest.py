"""People's videos into a store and out again, with the miniature's real VAE and text encoder, on real Ray actors."""

import errno
import io
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from buffers.records import Anchor, EncodedCondition, Pair
from buffers.store.pair_store import PairStore
from buffers.tensors import decode
from cluster import cli
from examples.miniature.world import FPS, Scene, draw_any, render
from media.video_read import read_clip
from media.video_write import write_mp4
from policy.policy import VideoPolicy
from tests.buffers.samples import conditioning, same

BUNDLE = Path("examples/miniature/weights/bundle")
CONFIG = ["--config", "configs/miniature.yaml"]


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(5)
    return [draw_any(rng) for _ in range(count)]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight videos, one that is too short, a damaged one, a picture, and a manifest of all kinds."""
    folder = tmp_path_factory.mktemp("people")
    made = scenes(8)
    for number, scene in enumerate(made):
        write_mp4(folder / f"{number}.mp4", render(scene), fps=FPS)
    write_mp4(folder / "short.mp4", render(made[0])[:5], fps=FPS)
    (folder / "damaged.mp4").write_bytes((folder / "0.mp4").read_bytes()[:900])
    Image.fromarray(render(made[2])[0]).resize((64, 48)).save(folder / "frame.png")
    texts = [{"prompt": scene.prompt, "domain": scene.domain} for scene in made]
    rows: list[dict[str, Any]] = [
        {**texts[0], "a": "0.mp4", "b": "1.mp4", "label": 1, "annotator": "ann"},
        {**texts[0], "a": "1.mp4", "b": "0.mp4", "label": 2, "annotator": "bob"},
        {**texts[0], "a": "0.mp4", "b": "1.mp4", "label": 2, "annotator": "cat"},
        {**texts[2], "a": "2.mp4", "b": "3.mp4", "choice": "b"},
        {**texts[2], "a": "2.mp4", "b": "4.mp4", "label": 4, "probabilities": [0.1, 0.2, 0.1, 0.6]},
        {**texts[5], "a": "5.mp4", "b": "6.mp4", "label": 1, "annotator": "ann"},
        {**texts[5], "a": "5.mp4", "b": "6.mp4", "label": 4, "annotator": "bob"},
        {**texts[5], "a": "5.mp4", "b": "short.mp4", "label": 1},
        {**texts[5], "a": "damaged.mp4", "b": "6.mp4", "label": 2},
        {**texts[0], "video": "0.mp4", "polarity": "positive"},
        {**texts[3], "video": "0.mp4", "polarity": "negative"},
        {**texts[7], "video": "7.mp4", "polarity": "positive"},
        {"prompt": "a red person walking left", "domain": "human"},
    ]
    (folder / "people.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def on_this_ray(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.on_ray.pool.connected", lambda *_, **__: nullcontext())


@pytest.fixture(scope="module")
def stored(people: Path, ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that the manifest makes."""
    into, skipped = tmp_path_factory.mktemp("store") / "people", people / "skipped.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.on_ray.pool.connected", lambda *_, **__: nullcontext())
        assert ingest(people / "people.jsonl", into, "--skipped", str(skipped)) == 0
    return into


def ingest(manifest: Path, into: Path, *more: str) -> int:
    config = [] if "--config" in more else CONFIG
    return cli.main(["data", "ingest", str(manifest), "--into", str(into), *config, *more])


def everything(store: Path) -> tuple[tuple[Pair, ...], tuple[Anchor, ...], tuple[EncodedCondition, ...]]:
    """All records of a store, in its own order."""
    reader = PairStore(store, write=False)
    pairs = reader.read([pair.id for pair in reader.catalog.pairs()])
    anchors = reader.anchors(reader.catalog.ids("anchors"))
    ids = sorted(reader.catalog.ids("conditionings"))
    return tuple(pairs), tuple(anchors), tuple(reader.conditionings(ids)[id_] for id_ in ids)


@pytest.fixture(scope="module")
def policy() -> Iterator[VideoPolicy]:
    yield VideoPolicy.load(BUNDLE, dtype="float32", max_text_tokens=16, experts=False)


@pytest.mark.ray
def test_what_people_said_is_stored_with_the_bundles_own_latents(stored: Path, people: Path, policy: VideoPolicy):
    pairs, anchors, conditionings = everything(stored)
    labels = [pair.verdict.label if pair.verdict else None for pair in pairs]
    assert labels == [1, None, 4] and {pair.source for pair in pairs} == {"offline"}
    assert pairs[0].verdict is not None and pairs[0].verdict.probabilities == (2 / 3, 1 / 3, 0.0, 0.0)
    assert pairs[2].verdict is not None and pairs[2].verdict.probabilities == (0.1, 0.2, 0.1, 0.6)
    chosen = ["0.mp4", "3.mp4", "4.mp4"]
    for pair, name in zip(pairs, chosen, strict=True):
        clip = read_clip(people / name, num_frames=9, fps=8.0, height=32, width=32)
        assert np.allclose(decode(pair.chosen), policy.encode(clip[None])[0], atol=1e-5)
    assert [anchor.positive for anchor in anchors] == [True, False, True]
    # The same video is an anchor of two conditions and in a pair, and is kept once.
    assert anchors[0].video_id == anchors[1].video_id == pairs[0].chosen_id
    assert len(PairStore(stored, write=False).catalog.ids("latents")) == 6
    texts = {c.condition.prompt: c for c in conditionings if c.first_frame is None}
    assert texts.keys() >= {"a red person walking left", scenes(1)[0].prompt}
    embeds = policy.encode_prompts(["a red person walking left"])[0]
    assert np.allclose(decode(texts["a red person walking left"].prompt_embeds), embeds, atol=1e-5)
    assert len(texts) == len(conditionings), "the bundle's videos begin with no picture"


@pytest.mark.ray
def test_what_was_left_out_is_told_with_its_rows(stored: Path, people: Path):
    left_out = [json.loads(line) for line in (people / "skipped.jsonl").read_text().splitlines()]
    why = {tuple(some["rows"]): some["why"] for some in left_out}
    assert why.keys() == {(6, 7), (8,), (9,)}
    assert why[6, 7] == "its annotators are split evenly over which video is better"
    assert "short.mp4: 5 frames over 0.62 s" in why[8,] and "the 9 different frames" in why[8,]
    assert "damaged.mp4: not a video" in why[9,]


def test_a_picture_for_a_text_to_video_bundle_is_refused_before_anything_is_encoded(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    manifest = people / "framed.jsonl"
    manifest.write_text(json.dumps({"prompt": "a dancer", "first_frame": "frame.png"}))
    assert ingest(manifest, tmp_path / "store") == 2
    wrong = "row 1: prompt 'a dancer' has a first frame; for videos of this bundle a first frame is not taken"
    assert wrong in capsys.readouterr().err


@pytest.mark.ray
def test_the_same_command_encodes_nothing_again_and_corrects_what_changed(
    stored: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import shutil

    monkeypatch.setattr("cluster.on_ray.pool.connected", lambda *_, **__: pytest.fail("Ray was started"))
    copy = shutil.copytree(stored, tmp_path / "copy")
    rows = (people / "people.jsonl").read_text().splitlines()
    good = [row for number, row in enumerate(rows, start=1) if number not in (6, 7, 8, 9)]
    manifest = people / "again.jsonl"
    manifest.write_text("\n".join([*good[:3], good[3].replace('"choice": "b"', '"choice": "a"'), *good[4:]]))
    capsys.readouterr()
    assert ingest(manifest, copy) == 0
    said = capsys.readouterr().out
    assert "0 pairs, 0 anchors, 0 prompts are new; 7 were there already, 0 of them corrected" in said
    assert "row 4: is stored with the other video as chosen" in said
    manifest.write_text("\n".join([good[2], good[3].replace('"choice": "b"', '"label": 1')]))
    assert ingest(manifest, copy) == 0
    assert "2 of them corrected" in capsys.readouterr().out
    before, after = everything(stored)[0], everything(copy)[0]
    # The second had its chosen video first, which the correction calls B.
    assert [pair.verdict.label if pair.verdict else None for pair in after] == [2, 2, 4]
    assert [pair.chosen_id for pair in after[:2]] == [pair.rejected_id for pair in before[:2]]
    # An id that is another pair's, and a video that is not what it was said to be.
    rows = [json.loads(good[4]) | {"id": before[0].id}, json.loads(good[5]) | {"polarity": "negative"}]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    assert ingest(manifest, copy) == 0
    said = capsys.readouterr().out
    assert f"row 1: id '{before[0].id}' is that of another pair in the store" in said
    assert "row 2: is stored as positive; an anchor is not corrected" in said
    assert same(everything(copy)[0], after)


@pytest.mark.ray
def test_what_is_exported_and_ingested_again_is_equal(
    stored: Path, on_this_ray: None, tmp_path: Path, policy: VideoPolicy
):
    out = tmp_path / "out"
    assert cli.main(["data", "export", str(stored), "--out", str(out), *CONFIG]) == 0
    assert ingest(out / "manifest.parquet", tmp_path / "again") == 0
    assert same(everything(tmp_path / "again"), everything(stored))
    # And the videos are there to be seen: what the VAE makes of the latents, up to the codec.
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    pair = everything(stored)[0][0]
    seen = read_clip(out / rows[0]["a"], num_frames=9, fps=8.0, height=32, width=32)
    assert np.abs(seen.astype(int) - policy.decode(decode(pair.chosen)[None])[0]).mean() < 6
    # Without the exact tensors the videos themselves are encoded.
    (out / "made_for.json").unlink()
    assert ingest(out / "manifest.parquet", tmp_path / "anew") == 0
    anew = everything(tmp_path / "anew")[0][0]
    assert anew.id == pair.id and anew.verdict == pair.verdict and not same(anew.chosen, pair.chosen)
    assert np.abs(decode(anew.chosen) - decode(pair.chosen)).mean() < 0.5


@pytest.mark.ray
def test_a_stopped_ingestion_goes_on_behind_what_it_had_stored(
    stored: Path, people: Path, on_this_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    append, calls = PairStore.append, []

    def full(self: PairStore, *given: Any, **named: Any) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "no room", str(tmp_path))
        append(self, *given, **named)

    monkeypatch.setattr("cluster.commands.data.ingest.MOST_ITEMS", 3)
    monkeypatch.setattr(PairStore, "append", full)
    assert ingest(people / "people.jsonl", tmp_path / "store") == 2
    assert "no room" in capsys.readouterr().err
    assert [pair.id for pair in everything(tmp_path / "store")[0]] == [pair.id for pair in everything(stored)[0]]
    assert not everything(tmp_path / "store")[1]
    monkeypatch.setattr(PairStore, "append", append)
    assert ingest(people / "people.jsonl", tmp_path / "store") == 0
    assert "3 were there already" in capsys.readouterr().out
    assert same(everything(tmp_path / "store"), everything(stored))


@pytest.mark.ray
def test_a_store_is_counted_drawn_and_verified(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sheet = tmp_path / "sheet.png"
    assert cli.main(["data", "inspect", str(stored), "--sheet", str(sheet), *CONFIG]) == 0
    said = capsys.readouterr().out
    for line in (
        "offline: 3",
        "negative: 1",
        "positive: 2",
        "16 x 5 x 8 x 8: 6",
        "choice alone: 1",
        "1, A less distorted: 1",
    ):
        assert line in said
    with Image.open(sheet) as picture:
        seen = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(seen, axis=0)) > 1000  # frames are in it, not only letters
    assert cli.main(["data", "verify", str(stored)]) == 0
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in stored.glob("*.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    latents = copy / "latents-00000001.arrow"
    latents.write_bytes(latents.read_bytes()[:-200] + b"x" + latents.read_bytes()[-199:])
    assert cli.main(["data", "verify", str(copy)]) == 2
    assert "latents-00000001.arrow: does not hold the bytes" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_report_of_bad_rows_survives_their_text(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
):
    """Every row is bad, so that nothing is encoded; a pipe may be able to hold ASCII alone."""
    monkeypatch.setattr("cluster.on_ray.pool.connected", lambda *_, **__: pytest.fail("Ray was started"))
    row = {"prompt": "x", "a": "0.mp4", "b": "1.mp4", "label": 1}
    texts = [{"prompt": "half \ud83d"}, {"a": "\u72d7.mp4"}, {"domain": "nul\0"}, {"label": 3.5}, {"b": "x" * 10_000}]
    bad = people / "texts.jsonl"
    bad.write_bytes("".join(json.dumps(row | each) + "\n" for each in texts).encode() + b'{"prompt": "caf\xe9"}\n')
    pipe, skipped = io.TextIOWrapper(io.BytesIO(), encoding=encoding), tmp_path / "skipped.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", pipe)
        assert ingest(bad, tmp_path / "store", "--skip-bad-rows", "--skipped", str(skipped)) == 0
    pipe.flush()
    said = pipe.buffer.getvalue().decode(encoding)  # pyright: ignore[reportAttributeAccessIssue]
    assert "left out, 6:" in said and "row 1: prompt = 'half \\ud83d'" in said and len(said) < 4000
    dog = "\u72d7.mp4" if encoding == "utf-8" else "\\u72d7.mp4"
    assert f"row 2: a = '{dog}': no such file" in said and "row 6: prompt = 'caf\\udce9'" in said
    why = [json.loads(line)["why"] for line in skipped.read_text("ascii").splitlines()]
    columns = ["prompt", "a", "domain", "label", "b", "prompt"]
    assert [each.partition(" = ")[0] for each in why] == columns


def test_a_bad_manifest_or_bundle_is_refused_before_ray_is_started(
    people: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("cluster.on_ray.pool.connected", lambda *_, **__: pytest.fail("Ray was started"))
    bad = people / "bad.jsonl"
    rows = [{"prompt": "x", "a": "0.mp4", "b": "9.mp4", "label": 1}] * 12
    bad.write_text("\n".join(map(json.dumps, rows)))
    assert ingest(bad, tmp_path / "store") == 2
    said = capsys.readouterr().err
    assert "row 1: b = '9.mp4': no such file" in said and "and 2 more bad rows" in said and "Nothing was stored" in said
    assert ingest(people / "none.jsonl", tmp_path / "none") == 2
    assert "no manifest" in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert ingest(people / "people.jsonl", tmp_path / "s", "--set", "sampling.num_frames=8") == 2
    assert "sampling.num_frames = 8" in capsys.readouterr().err
    other = PairStore(tmp_path / "other", encoded_by={"VAE": "of another bundle"})
    other.append(conditionings=[conditioning(0)])
    other.close()
    assert ingest(people / "people.jsonl", tmp_path / "other") == 2
    assert "was made with another VAE" in capsys.readouterr().err
    assert cli.main(["data", "export", str(tmp_path / "other"), "--out", str(tmp_path / "out"), *CONFIG]) == 2
    assert "was made with another VAE" in capsys.readouterr().err
    PairStore(tmp_path / "empty").close()
    assert cli.main(["data", "export", str(tmp_path / "empty"), "--out", str(tmp_path / "out"), *CONFIG]) == 2
    assert "holds nothing to export" in capsys.readouterr().err and not (tmp_path / "out").exists()
    held = PairStore(tmp_path / "held")
    assert ingest(people / "people.jsonl", tmp_path / "held") == 2
    assert "another" in capsys.readouterr().err
    held.close()
