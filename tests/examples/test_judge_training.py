from pathlib import Path

import numpy as np
import pytest

from examples.miniature.judge_data import SPEED_GAP, VideoPool, augment, meetings, rendered_pool, warp, wobble
from examples.miniature.judge_model import build
from examples.miniature.meter import measure
from examples.miniature.train_judge import facts_of, watched_facts
from examples.miniature.world import Scene, draw_any, render


@pytest.fixture(scope="module")
def pool() -> VideoPool:
    return rendered_pool(80, seed=3)


def test_a_pool_says_what_the_meter_says(pool: VideoPool) -> None:
    for video, distorted, human in zip(pool.videos[:20], pool.distorted, pool.human, strict=False):
        assert measure(video, "a red person" if human else "a red circle").distorted == distorted
    assert 0.3 < pool.distorted.mean() < 0.55
    assert not pool.distorted[::2].any()  # every other one is drawn clean, and the meter has no false alarms


def test_a_pool_survives_its_file(pool: VideoPool, tmp_path: Path) -> None:
    pool.save(tmp_path / "pool.npz")
    loaded = VideoPool.load(tmp_path / "pool.npz")
    assert all(np.array_equal(a, b) for a, b in zip(vars(pool).values(), vars(loaded).values(), strict=True))


def test_a_file_that_is_no_pool_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", videos=np.zeros((1, 9, 32, 32, 3), np.uint8), motion=np.zeros(1))
    with pytest.raises(ValueError, match=r"half.npz: arrays \['distorted', 'human'\] are missing"):
        VideoPool.load(tmp_path / "half.npz")
    arrays = {"distorted": np.zeros(1, bool), "motion": np.zeros(1), "human": np.zeros(1, bool)}
    np.savez(tmp_path / "big.npz", videos=np.zeros((1, 9, 64, 64, 3), np.uint8), **arrays)
    with pytest.raises(ValueError, match=r"uint8 \(1, 9, 64, 64, 3\), want uint8"):
        VideoPool.load(tmp_path / "big.npz")


def test_labels_of_pairs_follow_from_what_is_known_of_their_videos(pool: VideoPool) -> None:
    first, second, label = meetings(pool, 60, 5, np.random.default_rng(0))
    a, b, said = np.repeat(first, 5), second.ravel(), label.ravel()
    assert (pool.human[a] == pool.human[b]).all()
    one_bad = pool.distorted[a] != pool.distorted[b]
    assert np.array_equal(said <= 2, one_bad)
    assert np.array_equal(said[one_bad] == 2, pool.distorted[a][one_bad])
    alike = ~one_bad
    gap = pool.motion[b] - pool.motion[a]
    assert (np.abs(gap[alike]) >= SPEED_GAP).all()
    assert np.array_equal(said[alike] == 4, gap[alike] > 0)
    assert set(said) == {1, 2, 3, 4}


def test_variants_keep_size_and_type_and_differ(pool: VideoPool) -> None:
    rng = np.random.default_rng(0)
    for made in (augment(pool.videos[:4], rng), np.stack([wobble(video, rng) for video in pool.videos[:4]])):
        assert made.shape == (4, 9, 32, 32, 3) and made.dtype == np.uint8
        assert all((a != b).any() for a, b in zip(made, pool.videos, strict=False))


def test_most_warps_are_seen_as_distortions() -> None:
    rng = np.random.default_rng(1)
    scenes = [draw_any(rng) for _ in range(60)]
    assert np.mean([measure(warp(render(scene), rng), scene.prompt).distorted for scene in scenes]) > 0.7


def test_the_facts_asked_beside_the_verdict_are_true() -> None:
    video = render(Scene("red", "square", "right", 10.0, 20.0, 1.0, 0.0))
    values, weights = facts_of(video[None])
    assert values.shape == weights.shape == (1, 5, 44)
    later = values[0, 3, 0] * 5 + 16, values[0, 3, 1] * 5 + 16  # frame 6: x = 10 + 6, pixel centres are half a pixel in
    assert later == pytest.approx((19.5, 15.5), abs=0.05)
    assert (values[0, 0, 2] + 2) * 20 == pytest.approx(7.6**2, rel=0.15)  # a square of 2 x 3.8 pixels
    up, down, off, speed = watched_facts(video[None])[0].tolist()
    assert (up, down) == pytest.approx((0, 0), abs=0.05)
    assert np.expm1(off + 0.7) == pytest.approx(0, abs=0.1)
    assert speed + 1.2 == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
def test_training_computes_what_hugging_face_computes(pool: VideoPool, tmp_path: Path) -> None:
    from examples.miniature.judge_forward import Judge, check_forward
    from examples.miniature.train_judge import start_well

    model = build(tmp_path / "judge", seed=0)
    start_well(model)
    assert check_forward(Judge(model), pool) < 1e-4
    assert sum(path.stat().st_size for path in (tmp_path / "judge").iterdir()) < 10e6
