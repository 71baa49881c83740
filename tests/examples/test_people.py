from pathlib import Path

import pytest

from buffers.people.gathering import Gathered, Item
from buffers.people.rows import each_row
from examples.miniature.meter import measure
from examples.miniature.people import write_people
from media.video_read import read_clip


def test_drawn_people_mostly_prefer_what_the_meter_calls_clean(tmp_path: Path) -> None:
    manifest = write_people(tmp_path, pairs=12, seed=0)
    gathered = Gathered(tmp_path / "gathered.sqlite", rule="9 frames")
    gathered.add(dict(each_row(manifest)))
    items = [item for item in gathered.items() if isinstance(item, Item)]
    pairs = [item for item in items if item.kind == "pair"]
    assert len(pairs) == 12 and sum(item.kind == "anchor" for item in items) == 24
    right = 0
    for item in pairs:
        chosen, rejected = (
            measure(read_clip(video.file, num_frames=9, fps=8.0, height=32, width=32), item.condition.prompt)
            for video in item.videos
        )
        right += rejected.distorted and not chosen.distorted
    # Three answers that are wrong one time in ten each: a majority is wrong 2.8 times in a hundred.
    assert right >= 9
    assert {verdict.label for item in pairs if (verdict := item.verdict)} == {1, 2}
    gathered.close()
    with pytest.raises(FileExistsError, match=r"people\.jsonl"):
        write_people(tmp_path, pairs=1, seed=0)
