from pathlib import Path

import numpy as np
import pytest

from examples.miniature.judge_data import SPEED_GAP, VideoPool, augment, meetings, rendered_pool, warp, wobble
from examples.miniature.judge_facts import FACTS, facts_of, watched_facts
from examples.miniature.judge_model import build
from examples.miniature.meter import measure
from examples.miniature.pretrain_judge import described
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


def test_the_facts_that_pretraining_asks_for_are_true() -> None:
    video = render(Scene("red", "square", "right", 10.0, 20.0, 1.0, 0.0))
    values, weights = facts_of(video[None])
    assert values.shape == weights.shape == (1, 5, 50)
    later = values[0, 3, 0] * 5 + 16, values[0, 3, 1] * 5 + 16  # frame 6: x = 10 + 6, pixel centres are half a pixel in
    assert later == pytest.approx((19.5, 15.5), abs=0.05)
    assert (values[0, 0, 2] + 2) * 20 == pytest.approx(7.6**2, rel=0.15)  # a square of 2 x 3.8 pixels
    up, down, off, speed, lost, worst = watched_facts(video[None], np.array([False]))[0].tolist()
    assert (up, down, lost) == pytest.approx((0, 0, 0), abs=0.05)
    assert np.expm1(off + 0.7) == pytest.approx(0, abs=0.1)
    assert speed + 1.2 == pytest.approx(1.0, abs=0.05)
    assert np.exp(worst / 2) < 0.5


def test_a_head_is_seen_where_it_is_and_missed_where_it_goes() -> None:
    walker = Scene("blue", "person", "up", 16.0, 22.0, 0.5, 0.0)
    video = render(walker)
    values, _ = facts_of(video[None])
    assert (values[0, 0, 6] + 1) * 6 == pytest.approx(np.pi * 2.2**2, rel=0.25)
    assert values[0, 0, 7] * 5 + 16 == pytest.approx(22.0 - 5.0 - 0.5, abs=0.3)
    headless = video.copy()
    headless[5][np.abs(headless[5].astype(int) - (240, 240, 235)).max(-1) < 75] = (40, 42, 48)
    lost, worst = watched_facts(np.stack([video, headless]), np.array([True, True]))[:, 4:].T.tolist()
    assert lost[0] < 0.2 and lost[1] > 0.9
    assert np.exp(worst[0] / 2) < 1 < np.exp(worst[1] / 2)


def test_what_is_beyond_what_the_eye_tolerates_is_what_the_meter_calls_distorted(pool: VideoPool) -> None:
    worst = watched_facts(pool.videos, pool.human)[:, -1].numpy() > 0
    assert len(FACTS) == watched_facts(pool.videos, pool.human).shape[1]
    assert np.mean(worst == pool.distorted) > 0.9


def test_descriptions_are_of_people_as_often_as_not() -> None:
    rng = np.random.default_rng(0)
    texts = [described(rng) for _ in range(400)]
    assert 0.35 < np.mean([human for _, human in texts]) < 0.65
    assert all(human == ("person" in text) for text, human in texts if "walking" in text or "moving" in text)


@pytest.mark.slow
def test_training_computes_what_hugging_face_computes(pool: VideoPool, tmp_path: Path) -> None:
    from examples.miniature.judge_forward import Judge, check_forward
    from examples.miniature.pretrain_judge import start_well

    model = build(tmp_path / "judge", seed=0)
    start_well(model)
    assert check_forward(Judge(model), pool) < 1e-4
    assert sum(path.stat().st_size for path in (tmp_path / "judge").iterdir()) < 10e6
