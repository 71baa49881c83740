"""The loop in virtual time, against rates that can be worked out by hand."""

from pathlib import Path

import pytest

from cluster.cli import main
from cluster.commands.simulate import Costs, Split, costs_of_flops, costs_of_run, simulate, splits
from configs.load import load_config
from policy.bundle import check_bundle
from tests.cluster.fake_run import fake_run

CONFIG = Path("configs/wan2.1-t2v-14b-8x80gb.yaml")
LOOSE = ["learner.pairs_per_step=8", "learner.num_workers=1", "buffer.capacity=64", "buffer.max_staleness=100"]


def config(*overrides: str):
    return load_config(CONFIG, [*LOOSE, *overrides])


def test_the_slower_side_is_the_pace_and_the_other_one_waits():
    # Four generators make a pair in 100 s each: 144 an hour, of which half are kept.
    slow_generation = simulate(config(), Costs(generate=100, judge=1, learn=1, kept=0.5), Split(4, 1, 1))
    assert slow_generation.pairs_an_hour == pytest.approx(72, rel=0.05)
    assert slow_generation.generators_busy > 0.97
    assert slow_generation.learner_busy == pytest.approx(72 / 3600, rel=0.05)
    assert slow_generation.rankers_busy == pytest.approx(144 / 3600, rel=0.05)
    # A learner worker takes 50 s for a pair: 72 an hour, 144 with two.
    slow_learning = Costs(generate=10, judge=1, learn=50)
    assert simulate(config(), slow_learning, Split(4, 1, 1)).pairs_an_hour == pytest.approx(72, rel=0.05)
    two = simulate(config(), slow_learning, Split(4, 1, 2))
    assert two.pairs_an_hour == pytest.approx(144, rel=0.05) and two.learner_busy > 0.97
    assert two.generators_busy == pytest.approx(144 / 3600 * 10 / 4, rel=0.05)
    # One ranker judges a pair in 30 s: 120 an hour, whatever the others could.
    judging = simulate(config(), Costs(generate=10, judge=30, learn=1), Split(4, 1, 1))
    assert judging.pairs_an_hour == pytest.approx(120, rel=0.05) and "ranker" in judging.advice


def test_strictly_on_policy_nobody_overlaps():
    """Eight pairs by one generator, then a step: 8 x 10 s and 8 x 10 s, one after the other."""
    strict = simulate(config("buffer.max_staleness=0"), Costs(generate=10, judge=1e-3, learn=10), Split(1, 1, 1))
    assert strict.pairs_an_hour == pytest.approx(8 * 3600 / 160, rel=0.03)
    assert strict.generators_busy == pytest.approx(0.5, abs=0.03) and strict.staleness == 0


def test_pairs_that_grow_too_old_are_seen_and_the_advice_says_so():
    short = simulate(config("buffer.max_staleness=1"), Costs(generate=700, judge=1, learn=1), Split(64, 1, 1))
    assert short.too_old > 0.2 and "max_staleness" in short.advice
    assert simulate(config(), Costs(generate=700, judge=1, learn=1), Split(64, 1, 1)).too_old == 0


def test_the_best_split_is_found_among_all_that_fit():
    costs = Costs(generate=100, judge=5, learn=20)
    found = splits(config(), costs, 16)
    assert len(found) == 3 and all(split.generators + split.rankers + split.workers <= 16 for split in found)
    best = max((simulate(config(), costs, split) for split in found), key=lambda each: each.pairs_an_hour)
    for workers in (1, 2, 4, 8):
        other = simulate(config(), costs, Split(15 - workers, 1, workers))
        assert other.pairs_an_hour <= best.pairs_an_hour * 1.01
    with pytest.raises(ValueError, match="--gpus 2: too few"):
        splits(config(), costs, 2)
    with pytest.raises(ValueError, match=r"generator\.gpus_per_actor = 0: this config has no GPUs"):
        splits(load_config("configs/miniature.yaml"), costs, 16)


def test_costs_of_a_run_and_of_flops(tmp_path: Path, tiny_bundle: Path):
    with pytest.raises(ValueError, match="no pair or no step yet"):
        costs_of_run(fake_run(tmp_path / "run").path)
    small = config(
        f"model.path={tiny_bundle}",
        "sampling.height=32",
        "sampling.width=32",
        "sampling.num_frames=9",
        "ranker.frames=9",
    )
    slow, fast = (costs_of_flops(small, check_bundle(tiny_bundle), flops) for flops in (1e9, 2e9))
    assert slow.generate == pytest.approx(2 * fast.generate) and slow.learn == pytest.approx(2 * fast.learn)


def test_bad_input_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "costs.yaml").write_text("{generate: -1, learn: 3, jugde: 2}")
    wrong = [
        ([], "want one of --costs"),
        (["--costs", str(tmp_path / "costs.yaml")], "jugde"),
        (["--costs", str(tmp_path / "none.yaml")], "none.yaml"),
        (["--costs", str(tmp_path)], "no run is here"),
    ]
    for given, said in wrong:
        assert main(["simulate", str(CONFIG), *given]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "good.yaml").write_text("{generate: 9, learn: 3}")
    offline = ["stages=[{kind: offline}]", "buffer.offline=x", "--costs", str(tmp_path / "good.yaml")]
    assert main(["simulate", str(CONFIG), *offline]) == 2
    assert "generates nothing" in capsys.readouterr().err
    out = tmp_path / "out"
    assert main(["simulate", str(CONFIG), *LOOSE, "--costs", str(tmp_path / "good.yaml"), "--out", str(out)]) == 0
    assert "pairs/hour" in capsys.readouterr().out
    assert main(["simulate", str(CONFIG), *LOOSE, "--costs", str(tmp_path / "good.yaml"), "--out", str(out)]) == 2
    assert "out" in capsys.readouterr().err
    assert (out / "simulated.png").stat().st_size > 5000 and (out / "simulated.json").is_file()
