import numpy as np
import pytest

from buffers.mixing import quotas
from buffers.records import Source


@pytest.mark.parametrize(
    ("shares", "off_by"),
    [
        ({"online": 1.0}, 0),
        ({"online": 0.5, "offline": 0.5}, 1),
        ({"online": 0.7, "half-online": 0.3}, 1),
        ({"online": 0.61, "half-online": 0.3, "offline": 0.09}, 2),
    ],
)
def test_the_mix_is_exact_over_time(shares, off_by):
    drawn = dict.fromkeys(shares, 0)
    for count in np.random.default_rng(0).integers(1, 40, 500).tolist():
        given = quotas(shares, drawn, count)
        assert sum(given.values()) == count and all(number > 0 for number in given.values())
        drawn = {source: number + given.get(source, 0) for source, number in drawn.items()}
        total = sum(drawn.values())
        assert all(abs(number - shares[source] * total) < max(off_by, 1e-6) for source, number in drawn.items())


def test_it_does_not_matter_how_the_places_are_cut_into_batches():
    shares: dict[Source, float] = {"online": 0.61, "half-online": 0.3, "offline": 0.09}
    for cut in (1, 7, 25, 100):
        drawn: dict[Source, int] = dict.fromkeys(shares, 0)
        for _ in range(700 // cut):
            given = quotas(shares, drawn, cut)
            drawn = {source: number + given.get(source, 0) for source, number in drawn.items()}
        assert drawn == {"online": 427, "half-online": 210, "offline": 63}  # 700 of each share
