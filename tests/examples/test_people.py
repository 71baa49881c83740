import json
from pathlib import Path

import pytest

from buffers.people.gathering import Gathered, Item
from buffers.people.rows import each_row
from buffers.records import Condition
from configs.load import load_config
from examples.miniature.meter import measure, obeyed
from examples.miniature.people import USES, Seen, choose_anchors, choose_pairs, write_drawn, write_sampled
from media.video_read import read_clip


def read(file: Path):
    return read_clip(file, num_frames=9, fps=8.0, height=32, width=32)


def gathered(manifest: Path, folder: Path) -> list[Item]:
    answers = Gathered(folder / "gathered.sqlite", rule="9 frames")
    answers.add(dict(each_row(manifest)))
    items = [item for item in answers.items() if isinstance(item, Item)]
    answers.close()
    return items


def test_drawn_people_mostly_prefer_what_the_meter_calls_clean(tmp_path: Path) -> None:
    items = gathered(write_drawn(tmp_path, pairs=12, seed=0), tmp_path)
    pairs = [item for item in items if item.kind == "pair"]
    assert len(pairs) == 12 and sum(item.kind == "anchor" for item in items) == 24
    right = 0
    for item in pairs:
        chosen, rejected = (measure(read(video.file), item.condition.prompt) for video in item.videos)
        right += rejected.distorted and not chosen.distorted
    # Three answers that are wrong one time in ten each: a majority is wrong 2.8 times in a hundred.
    assert right >= 9
    assert {verdict.label for item in pairs if (verdict := item.verdict)} == {1, 2}
    with pytest.raises(FileExistsError, match=r"people\.jsonl"):
        write_drawn(tmp_path, pairs=1, seed=0)


def test_sampled_people_say_what_the_meter_says_of_the_files(tmp_path: Path) -> None:
    config = load_config("configs/miniature-curriculum.yaml")
    manifest = write_sampled(tmp_path, config, videos_per_prompt=8, prompts=6)
    items = gathered(manifest, tmp_path)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        files = [row["video"]] if "video" in row else [row["a"], row["b"]]
        found = [
            (measure(v, row["prompt"]).distorted, all(obeyed(v, row["prompt"]).values()))
            for v in map(read, map(tmp_path.joinpath, files))
        ]
        if "video" in row:
            assert found == [(False, row["polarity"] == "positive")]
        else:
            assert found == [(False, True), (True, True)] and row["label"] == 1
    assert len(items) == len(rows) and {item.kind for item in items} == {"pair", "anchor"}
    with pytest.raises(FileExistsError, match=r"people\.jsonl"):
        write_sampled(tmp_path, config, videos_per_prompt=8)
    with pytest.raises(ValueError, match="3 videos of each prompt"):
        write_sampled(tmp_path / "odd", config, videos_per_prompt=3)


def seen(name: str, motion: float, *, distorted: bool = False, obeyed: bool = True) -> Seen:
    return Seen(name, Condition("c", "a red circle moving left", "general"), distorted, obeyed, motion)


def test_the_two_of_a_pair_move_alike_and_differ_in_distortion_alone() -> None:
    good = [seen("slow", 0.5), seen("fast", 1.5)]
    others = [seen("distorted", 1.45, distorted=True)]
    none = [seen("too fast", 1.7, distorted=True), seen("both", 1.5, distorted=True, obeyed=False)]
    none.append(seen("other", 0.55, obeyed=False))
    assert set(names(choose_pairs(good + others + none))) == {("fast", "distorted")}
    many = [seen(f"g{n}", 1.0) for n in range(5)] + [seen(f"b{n}", 1.0, distorted=True) for n in range(5)]
    pairs = choose_pairs(many)
    assert all(1 <= sum(video in pair for pair in pairs) <= USES for video in many)
    assert len(set(names(pairs))) == len(pairs) > 10


def names(pairs: list[tuple[Seen, Seen]]) -> list[tuple[str, str]]:
    return [(good.name, other.name) for good, other in pairs]


def test_anchors_are_fast_good_ones_and_ones_that_look_well_and_do_something_else() -> None:
    videos = [seen(f"good{n}", 1.0 + n / 10) for n in range(5)]
    videos += [seen("other", 1.0, obeyed=False), seen("distorted", 2.0, distorted=True, obeyed=False)]
    assert [video.name for video in choose_anchors(videos)] == ["good4", "good3", "good2", "good1", "other"]
