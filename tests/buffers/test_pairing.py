import dataclasses
from collections import Counter

import pytest

from actors.streams import AnchorStream
from buffers.pairing import anchored_pairs
from buffers.store.pair_store import PairStore
from tests.buffers.samples import anchor, candidates, conditioning, same, tensor


@pytest.fixture
def store(tmp_path):
    """Six positive anchors and two negative ones, of two conditions."""
    store = PairStore(tmp_path)
    some = [anchor(n, positive=n < 6, condition=n % 2) for n in range(8)]
    store.append(anchors=some, conditionings=[conditioning(0), conditioning(1)])
    yield store
    store.close()


def test_polarities_are_mixed_exactly_and_each_anchor_is_used_as_often_as_any_other(store):
    stream = AnchorStream(store, positive_share=0.75, seed=3)
    drawn = [draw.id for _ in range(8) for draw in stream.next(6)]
    positive = [int(id_.removeprefix("anchor")) < 6 for id_ in drawn]
    assert all(abs(sum(positive[:count]) - 0.75 * count) < 1 for count in range(1, 49))
    assert set(Counter(drawn).values()) == {6}  # 36 draws over 6 positive ones, 12 over 2 negative ones
    first, second = ([id_ for id_ in drawn if int(id_[6:]) < 6][start : start + 6] for start in (0, 6))
    assert sorted(first) == sorted(second) and first != second
    assert drawn == [draw.id for draw in AnchorStream(store, positive_share=0.75, seed=3).next(48)]
    assert drawn != [draw.id for draw in AnchorStream(store, positive_share=0.75, seed=4).next(48)]


def test_it_goes_on_where_it_was_saved(store):
    stream = AnchorStream(store, positive_share=0.5, seed=3)
    stream.next(7)
    saved, rest = stream.state(), stream.next(9)
    again = AnchorStream(store, positive_share=0.5, seed=3)
    again.restore(saved)
    assert again.next(9) == rest
    with pytest.raises(ValueError, match="has seed = 3, this run has 4"):
        AnchorStream(store, positive_share=0.5, seed=4).restore(saved)
    store.append(anchors=[anchor(9)])
    with pytest.raises(ValueError, match="has anchors = "):
        AnchorStream(store, positive_share=0.5, seed=3).restore(saved)


def test_a_polarity_that_is_wanted_must_be_there(tmp_path):
    store = PairStore(tmp_path)
    store.append(anchors=[anchor(0)], conditionings=[conditioning(0)])
    with pytest.raises(ValueError, match=r"holds no negative anchor; 0\.25 of all"):
        AnchorStream(store, positive_share=0.75, seed=0)
    assert AnchorStream(store, positive_share=1.0, seed=0).next(2)[1].condition_id == "c0"
    store.close()


@pytest.mark.parametrize("positive", [True, False])
def test_a_positive_anchor_is_chosen_and_a_negative_one_rejected(positive):
    made, labelled = candidates(5, version=3), anchor(1, positive=positive)
    one, two = anchored_pairs(labelled, made)
    assert [one.id, two.id] == ["anchor1-10", "anchor1-11"]
    generated = [("c0-10", made.latents_a), ("c0-11", made.latents_b)]
    for pair, (id_, latents) in zip((one, two), generated, strict=True):
        sides = [(pair.chosen_id, pair.chosen), (pair.rejected_id, pair.rejected)]
        assert same(tuple(sides if positive else sides[::-1]), (("video1", labelled.latents), (id_, latents)))
        assert (pair.source, pair.policy_version, pair.condition_id, pair.verdict) == ("half-online", 3, "c0", None)


def test_what_cannot_be_a_pair_is_refused():
    with pytest.raises(ValueError, match="anchor anchor1 is of condition c1, not of c0"):
        anchored_pairs(anchor(1, condition=1), candidates(5))
    longer = dataclasses.replace(anchor(1), latents=tensor(1, shape=(4, 5, 2, 2)))
    with pytest.raises(ValueError, match=r"latents of shape \(4, 5, 2, 2\), the policy makes \(4, 3, 2, 2\)"):
        anchored_pairs(longer, candidates(5))
