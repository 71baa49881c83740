from collections import Counter
from pathlib import Path

import pytest

from buffers.people.labelled_pairs import read_labelled_pairs
from examples.miniature.judge_data import SPEED_GAP, rendered_pool
from examples.miniature.judge_pairs import write_pairs, write_slow_pairs
from examples.miniature.meter import measure
from ranker.frames import read_frames


def test_the_manifest_says_what_the_meter_sees_in_the_files(tmp_path: Path) -> None:
    pools = [rendered_pool(40, seed=3, wobbly_share=0.4), rendered_pool(40, seed=4)]
    manifest = write_pairs(tmp_path / "pairs", pools, pairs=60, seed=3)
    pairs, problems = read_labelled_pairs(manifest)
    assert (len(pairs), problems) == (60, [])
    assert {pair.domain for pair in pairs} == {"human", "general"}
    for pair in pairs:
        prompt = "a person" if pair.domain == "human" else ""
        a, b = (measure(read_frames(path, count=9, max_pixels=2**20).frames, prompt) for path in (pair.a, pair.b))
        (label,) = pair.right
        if label <= 2:
            assert (a.distorted, b.distorted) == (label == 2, label == 1)
            assert pair.criterion == (b if label == 1 else a).reason
        else:
            assert a.distorted == b.distorted
            assert (a.motion - b.motion) * (1 if label == 3 else -1) >= SPEED_GAP - 1e-3
    assert Counter(pair.a.name[:2] for pair in pairs) == {"0-": 30, "1-": 30}
    kinds = Counter("motion" if pair.right[0] > 2 else "distortion" for pair in pairs)
    assert min(kinds.values()) > 15
    with pytest.raises(FileExistsError, match=r"pairs\.jsonl is there already"):
        write_pairs(tmp_path / "pairs", pools, pairs=1, seed=3)


def test_slow_pairs_name_the_faster_video_whichever_comes_first(tmp_path: Path) -> None:
    manifest = write_slow_pairs(tmp_path / "slow", pairs=12, seed=1)
    pairs, _ = read_labelled_pairs(manifest)
    assert {pair.right for pair in pairs} == {(3,), (4,)}
    for pair in pairs:
        a, b = (read_frames(path, count=9, max_pixels=2**20).frames for path in (pair.a, pair.b))
        faster, slower = (measure(video, "").motion for video in ((a, b) if pair.right == (3,) else (b, a)))
        assert slower < 0.7 * faster
