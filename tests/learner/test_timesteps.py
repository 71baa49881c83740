import itertools
import math
import re
import statistics
from collections import Counter
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from configs.sections import TimestepsConfig
from learner.timesteps import check_timesteps, draw_window

UNIPC: Any = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
EULER: Any = FlowMatchEulerDiscreteScheduler(shift=5.0)
PLAIN = TimestepsConfig(random_shift=False, random_offset=False)


def window(config, *, scheduler=UNIPC, steps=40, seed=0, step=0, num_pairs=4, boundary_ratio=None):
    return draw_window(
        config,
        scheduler=scheduler,
        steps=steps,
        seed=seed,
        step=step,
        num_pairs=num_pairs,
        boundary_ratio=boundary_ratio,
    )


def visited(scheduler, steps):
    """What diffusers itself visits: (timestep, sigma) pairs, noisiest first."""
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(steps)
    return list(zip(own.timesteps.tolist(), own.sigmas.tolist()[:steps], strict=True))


@pytest.mark.parametrize("scheduler", [UNIPC, EULER], ids=["unipc", "euler"])
def test_with_everything_random_off_the_window_slides_over_exactly_what_the_sampler_visits(scheduler):
    grid = visited(scheduler, 40)
    high, low = [pair for pair in grid if pair[0] >= 800], [pair for pair in grid if pair[0] < 800]
    lows = set()
    for step in range(200):
        drawn = window(PLAIN, scheduler=scheduler, step=step)
        pairs = [
            list(zip(t, s, strict=True)) for t, s in zip(drawn.timesteps.tolist(), drawn.sigmas.tolist(), strict=True)
        ]
        assert all(len(set(row)) == 1 for row in pairs)
        assert [row[0] for row in pairs[:4]] == [high[(4 * step + i) % len(high)] for i in range(4)]
        assert pairs[4][0] in low
        lows.add(pairs[4][0])
    assert lows == set(low)
    assert drawn.shift is None


def test_shifted_anchors_are_those_of_equation_5_worked_out_by_hand():
    # u = 1, .8002, .6004, .4006, .2008; sigma = 3 u / (1 + 2 u) = 1, .92317, .81843, .66722, .42979
    config = TimestepsConfig(shifts=[3.0], random_offset=False, high=3, low=2)
    drawn = window(config, scheduler=UNIPC, steps=5)
    assert drawn.timesteps[:3, 0].tolist() == [1000.0, 923.0, 818.0]
    assert sorted(drawn.timesteps[3:, 0].tolist()) == [430.0, 667.0]
    assert drawn.sigmas[:3, 0].tolist() == pytest.approx([1.0, 0.923, 0.818])
    assert drawn.shift == 3.0


def test_a_shift_replaces_the_schedulers_own_and_a_larger_one_has_more_high_timesteps():
    def high(shift, scheduler):
        config = TimestepsConfig(shifts=[shift], random_offset=False, high=1, stride=1)
        return {window(config, scheduler=scheduler, step=step).timesteps[0, 0].item() for step in range(60)}

    other = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=12.0)
    assert high(3.0, UNIPC) == high(3.0, other)
    assert len(high(3.0, UNIPC)) < len(high(6.0, UNIPC))


def test_shifts_are_drawn_evenly_and_low_anchors_uniformly():
    draws = [window(TimestepsConfig(random_offset=False), step=step) for step in range(800)]
    shifts = Counter(draw.shift for draw in draws)
    assert shifts.keys() == {3.0, 4.0, 5.0, 6.0}
    assert all(abs(count - 200) < 4 * math.sqrt(800 * 0.25 * 0.75) for count in shifts.values())
    lows = Counter(window(PLAIN, scheduler=EULER, steps=12, step=step).timesteps[4, 0].item() for step in range(800))
    assert lows.keys() == {t for t, _ in visited(EULER, 12) if t < 800}
    expected = 800 / len(lows)
    assert sum((count - expected) ** 2 / expected for count in lows.values()) < len(lows) + 5 * math.sqrt(2 * len(lows))


def test_offsets_are_per_pair_integers_with_the_variance_asked_for():
    config = TimestepsConfig(random_shift=False)
    offsets = []
    for step in range(100):
        drawn, plain = (window(c, step=step, num_pairs=64) for c in (config, PLAIN))
        assert torch.equal(drawn.timesteps, drawn.timesteps.round())
        torch.testing.assert_close(drawn.sigmas, drawn.timesteps / 1000)
        # the low timestep is drawn before the offsets, so both windows are on the same ones; t = 999 is clipped
        offsets.append((drawn.timesteps - plain.timesteps)[plain.timesteps < 980])
    found = torch.cat(offsets)
    assert abs(found.mean().item()) < 4 * math.sqrt(5.08 / len(found))
    assert found.var().item() == pytest.approx(5 + 1 / 12, rel=0.05)  # rounding adds a twelfth
    assert len(drawn.timesteps[1].unique()) > 3


def test_offsets_stay_within_the_training_range():
    config = TimestepsConfig(offset_variance=90_000.0)
    drawn = torch.cat([window(config, step=step, num_pairs=32).timesteps for step in range(20)])
    assert (drawn.min().item(), drawn.max().item()) == (0.0, 1000.0)


@pytest.mark.parametrize("snap", ["timestep", "grid"])
@pytest.mark.parametrize("boundary", [0.9, 0.875])
def test_no_row_mixes_experts_and_offsets_stop_at_the_boundary(snap, boundary):
    config = TimestepsConfig(offset_variance=400.0, snap=snap)
    seen = Counter()
    for step in range(60):
        drawn = window(config, step=step, num_pairs=16, boundary_ratio=boundary)
        for row, expert in zip(drawn.timesteps, drawn.experts, strict=True):
            is_high = row >= boundary * 1000
            assert bool(is_high.all() if expert == "transformer" else (~is_high).all())
            seen[expert] += 1
            seen["at the boundary"] += int(((row == boundary * 1000) | (row == boundary * 1000 - 1)).sum())
    assert seen["transformer"] > 50 and seen["transformer_2"] > 100
    assert snap == "grid" or seen["at the boundary"] > 20


def test_one_expert_without_a_boundary():
    assert window(TimestepsConfig()).experts == ("transformer",) * 5


def test_snap_grid_moves_to_the_nearest_step_of_the_sampler():
    grid = dict(visited(UNIPC, 40))
    config = TimestepsConfig(random_shift=False, snap="grid", offset_variance=900.0)
    drawn = window(config, num_pairs=64)
    for t, sigma in zip(drawn.timesteps.flatten().tolist(), drawn.sigmas.flatten().tolist(), strict=True):
        assert grid[t] == sigma
    still = window(config.model_copy(update={"offset_variance": 0.0}), num_pairs=64)
    assert torch.equal(still.timesteps, window(PLAIN, num_pairs=64).timesteps)
    assert not torch.equal(drawn.timesteps, still.timesteps)


def test_other_window_sizes():
    drawn = window(TimestepsConfig(high=2, low=3, stride=1, random_shift=False, random_offset=False), step=7)
    high = [t for t, _ in visited(UNIPC, 40) if t >= 800]
    assert drawn.timesteps[:2, 0].tolist() == [high[7], high[8]]
    assert len(set(drawn.timesteps[2:, 0].tolist())) == 3
    assert (drawn.timesteps[2:] < 800).all()


def test_a_window_is_a_function_of_seed_and_step_alone_and_ranks_take_its_columns():
    one, again = (
        window(TimestepsConfig(), seed=3, step=11, num_pairs=6),
        window(TimestepsConfig(), seed=3, step=11, num_pairs=6),
    )
    assert torch.equal(one.timesteps, again.timesteps)
    assert not torch.equal(one.timesteps, window(TimestepsConfig(), seed=4, step=11, num_pairs=6).timesteps)
    shares = [one.share(rank=rank, world_size=3) for rank in range(3)]
    assert torch.equal(torch.cat([share.timesteps for share in shares], dim=1), one.timesteps)
    assert torch.equal(torch.cat([share.sigmas for share in shares], dim=1), one.sigmas)
    assert shares[0].timesteps.shape == (5, 2)


def test_the_schedulers_state_is_not_touched():
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(7)
    window(TimestepsConfig(), scheduler=scheduler)
    assert len(scheduler.timesteps) == 7
    assert scheduler.config["flow_shift"] == 3.0


@pytest.mark.parametrize("kind", ["check", "draw"])
def test_too_few_anchors_name_n_shift_and_counts(kind):
    config = TimestepsConfig(shifts=[6.0, 3.0])
    with pytest.raises(
        ValueError, match=r"sampling\.steps = 6 with shift 3 gives 3 timesteps at t >= 800 and 3 below.*4 high"
    ):
        if kind == "check":
            check_timesteps(config, UNIPC, 6)
        else:
            for step in range(50):
                window(config, steps=6, step=step)


def test_too_few_low_anchors_and_the_schedulers_own_shift():
    with pytest.raises(
        ValueError, match=r"the scheduler's own shift gives 3 timesteps .* and 2 below; .* 3 high and 3 low"
    ):
        check_timesteps(PLAIN.model_copy(update={"high": 3, "low": 3}), UNIPC, 5)
    check_timesteps(PLAIN.model_copy(update={"high": 3, "low": 2}), UNIPC, 5)
    check_timesteps(TimestepsConfig(kind="uniform"), UNIPC, 1)


def test_no_shifts_to_draw_from():
    with pytest.raises(ValueError, match=r"learner\.timesteps\.shifts is empty"):
        check_timesteps(TimestepsConfig(shifts=[]), UNIPC, 40)


def test_uniform_is_one_timestep_per_pair_anywhere_in_the_range():
    config = TimestepsConfig(kind="uniform")
    drawn = torch.cat([window(config, step=step, num_pairs=64).timesteps for step in range(200)])
    assert drawn.shape == (200, 64)
    assert torch.equal(drawn, drawn.round())
    assert (drawn.min().item(), drawn.max().item()) == (1.0, 999.0)
    assert drawn.mean().item() == pytest.approx(500, abs=4 * 288.4 / math.sqrt(drawn.numel()))
    assert drawn.std().item() == pytest.approx(288.4, rel=0.02)
    one = window(config)
    torch.testing.assert_close(one.sigmas, one.timesteps / 1000)
    assert len(one.timesteps.unique()) > 1


def test_uniform_with_two_experts_keeps_a_step_on_one_and_stays_uniform():
    draws = [window(TimestepsConfig(kind="uniform"), step=step, boundary_ratio=0.875) for step in range(2000)]
    for draw in draws:
        is_high = draw.timesteps >= 875
        assert bool(is_high.all() if draw.experts == ("transformer",) else (~is_high).all())
    share = sum(draw.experts == ("transformer",) for draw in draws) / len(draws)
    assert share == pytest.approx(125 / 999, abs=4 * math.sqrt(0.125 * 0.875 / 2000))


def chi_square(drawn: torch.Tensor, edges: list[float], shares: list[float]) -> float:
    """Pearson's statistic of the draws between the edges."""
    counts = [int(((drawn > low) & (drawn < high)).sum()) for low, high in itertools.pairwise(edges)]
    assert sum(counts) == drawn.numel()
    expected = [share * drawn.numel() for share in shares]
    return sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True))


LIMIT = 37.6
"""Chi-square with 15 degrees of freedom is below this in 99.9% of draws (tables)."""

EDGES = [0.5, 62.5, 125.5, 188.5, 250.5, 312.5, 375.5, 438.5, 500.5, 562.5, 625.5, 688.5, 750.5, 812.5, 875.5, 938.5]
EDGES += [999.5]
"""16 classes; no integer lies on an edge."""


def test_uniform_draws_have_the_uniform_distribution():
    config = TimestepsConfig(kind="uniform")
    drawn = torch.cat([window(config, step=step, num_pairs=100).timesteps.flatten() for step in range(200)])
    assert chi_square(drawn, EDGES, [(high - low) / 999 for low, high in itertools.pairwise(EDGES)]) < LIMIT


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.8, 0.6)])
@pytest.mark.parametrize("boundary", [None, 0.875])
def test_logit_normal_draws_have_the_logit_normal_distribution(mean, deviation, boundary):
    config = TimestepsConfig(kind="logit_normal", logit_mean=mean, logit_deviation=deviation)
    normal = statistics.NormalDist(mean, deviation)
    below = [normal.cdf(math.log(edge / (1000 - edge))) for edge in EDGES]
    shares = [(high - low) / (below[-1] - below[0]) for low, high in itertools.pairwise(below)]
    # One pair a step: with two experts the pairs of a step are on one side together, those of different steps are not.
    pairs, steps = (1, 6000) if boundary else (100, 60)
    draws = [window(config, step=step, num_pairs=pairs, boundary_ratio=boundary) for step in range(steps)]
    drawn = torch.cat([draw.timesteps.flatten() for draw in draws])
    assert torch.equal(drawn, drawn.round())
    assert chi_square(drawn, EDGES, shares) < LIMIT
    torch.testing.assert_close(draws[0].sigmas, draws[0].timesteps / 1000)
    for draw in draws if boundary else []:
        assert draw.experts == ("transformer" if draw.timesteps.item() >= 875 else "transformer_2",)


def test_an_isolated_anchor_is_anywhere_on_the_grid_alike():
    config = PLAIN.model_copy(update={"window": "isolated"})
    draws = [window(config, steps=12, step=step) for step in range(1200)]
    assert all(draw.timesteps.shape == (1, 4) and len(draw.timesteps.unique()) == 1 for draw in draws)
    counts = Counter(draw.timesteps[0, 0].item() for draw in draws)
    assert counts.keys() == {t for t, _ in visited(UNIPC, 12)}
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 31.3  # 11 degrees of freedom, 99.9%
    check_timesteps(config, UNIPC, 1)


@pytest.mark.parametrize(("high", "low"), [(5, 0), (0, 5)])
def test_high_noise_alone_and_low_noise_alone(high, low):
    drawn = window(PLAIN.model_copy(update={"high": high, "low": low}), step=3).timesteps
    assert drawn.shape == (5, 4)
    assert bool(((drawn >= 800) if high else (drawn < 800)).all())


@pytest.mark.parametrize(("variance", "boundary"), [(1e6, None), (1e4, 0.97)])
def test_offsets_that_would_all_be_clipped_are_refused(variance, boundary):
    config = TimestepsConfig(offset_variance=variance)
    with pytest.raises(ValueError, match=re.escape(f"offset_variance = {variance:g} (")):
        check_timesteps(config, UNIPC, 40, boundary_ratio=boundary)
    check_timesteps(config.model_copy(update={"random_offset": False}), UNIPC, 40, boundary_ratio=boundary)
    check_timesteps(TimestepsConfig(), UNIPC, 40, boundary_ratio=boundary)
