import numpy as np
import pytest

from benchmarks.studies.pooled import deviation_of_runs, difference_of_runs, figure_of_runs
from buffers.figures import difference, figure


def test_of_one_run_the_figures_are_those_of_its_values():
    rng, prompts = np.random.default_rng(0), np.repeat(range(24), 10).tolist()
    values, flags = rng.normal(size=240).tolist(), (rng.random(240) < 0.3).tolist()
    for some in (values, flags):
        assert figure_of_runs(some, prompts=prompts, runs=[7] * 240) == figure(some, prompts=prompts)
    assert difference_of_runs(values, flags, prompts=prompts, runs=[7] * 240) == difference(
        values, flags, prompts=prompts
    )


def test_the_variance_of_two_ways_against_a_float64_table():
    """Of a full table with one value a cell: that of the columns and of the rows, less that of the cells."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(5, 24)) + rng.normal(size=(5, 1)) + 2 * rng.normal(size=(1, 24))
    rows, columns = np.indices(table.shape)
    error, _ = deviation_of_runs(table.ravel(), columns.ravel().tolist(), rows.ravel().tolist())
    centred, cells = table - table.mean(), table.size
    of_prompts = 24 / 23 * (centred.sum(0) ** 2).sum() / cells**2
    of_runs = 5 / 4 * (centred.sum(1) ** 2).sum() / cells**2
    of_cells = cells / (cells - 1) * (centred**2).sum() / cells**2
    assert error**2 == pytest.approx(of_prompts + of_runs - of_cells)


def coverage(runs: int, *, effect: float, rates: bool, repetitions: int, seed: int) -> float:
    """How often the interval of a paired difference holds zero if nothing changes on average.

    effect: how far the change of one prompt, and of one run, strays from zero: 24 prompts of 20 videos.
    """
    rng, hits = np.random.default_rng(seed), 0
    shape = (runs, 24, 20)
    of_prompt, of_run = np.broadcast_arrays(*np.indices(shape)[1::-1])
    for _ in range(repetitions):
        shift = rng.normal(0, effect, (1, 24, 1)) + rng.normal(0, effect, (runs, 1, 1)) * (runs > 1)
        if rates:  # of which no change is drawn: clipped to 0 and 1, its mean would not be zero
            base = rng.beta(2, 4, (1, 24, 1))
            before, after = rng.random(shape) < base, rng.random(shape) < base
        else:
            base = rng.normal(size=(1, 24, 1))
            before, after = base + rng.normal(size=shape), base + shift + rng.normal(size=shape)
        changed = (after.ravel().tolist(), before.ravel().tolist())
        named = {"prompts": of_prompt.ravel().tolist(), "runs": of_run.ravel().tolist()}
        low, high = difference_of_runs(*changed, **named)["interval"]
        hits += low <= 0 <= high
    return hits / repetitions


@pytest.mark.parametrize(
    ("runs", "effect", "rates"), [(1, 0.0, True), (1, 0.0, False), (1, 0.3, False), (5, 0.2, False)]
)
def test_an_unchanged_policy_is_called_unchanged_as_often_as_is_said(runs: int, effect: float, rates: bool):
    """95% but for chance: of 600 repetitions two standard errors are 1.8 points."""
    assert 0.93 <= coverage(runs, effect=effect, rates=rates, repetitions=600, seed=7) <= 0.97
