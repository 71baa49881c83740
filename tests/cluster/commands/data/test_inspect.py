import dataclasses
from pathlib import Path

from buffers.records import Verdict
from buffers.store.pair_store import PairStore
from cluster.commands.data.inspect import counts
from tests.buffers.samples import anchor, conditioning, pair, tensor, verdict


def test_everything_is_counted_and_a_correction_counts_instead_of_what_it_corrects(tmp_path: Path):
    big = tensor(1, shape=(4, 3, 4, 4))
    some = [pair(0), pair(1, version=2), dataclasses.replace(pair(2), source="offline", verdict=None)]
    some.append(dataclasses.replace(pair(3, condition=1), chosen=big, rejected=big, source="half-online"))
    anchors = [anchor(0), anchor(1, positive=False, condition=1)]
    with_domain = conditioning(1)
    without = dataclasses.replace(
        conditioning(0), condition=dataclasses.replace(conditioning(0).condition, domain=None)
    )
    for forgotten in (False, True):
        store = PairStore(tmp_path)
        if not forgotten:
            store.append(some, [without, with_domain], anchors)
            store.correct(
                {pair(1).id: verdict(4), pair(2).id: Verdict(3, (0, 0, 1, 0), 1, True, 1, None, "human", "1", "x")}
            )
        found = counts(store)
        assert found["pairs by source"] == {"online": 2, "half-online": 1, "offline": 1}
        assert found["pairs by domain"] == {"not said": 3, "general": 1}
        assert found["pairs by verdict"] == {"1, A less distorted": 2, "3, A moves better": 1, "4, B moves better": 1}
        assert found["pairs by policy version"] == {"0": 3, "2": 1}
        assert found["anchors"] == {"positive": 1, "negative": 1}
        assert found["videos by shape of latents"] == {"4 x 3 x 2 x 2": 8, "4 x 3 x 4 x 4": 2}
        assert found["conditions"] == {"not said": 1, "general": 1}
        store.close()
        (tmp_path / "catalog.sqlite").unlink()  # made again from the commits, which know the same
