import dataclasses
from collections import Counter

import pytest

from actors.streams import AnchorStream, PromptStream
from buffers.pairing import anchored_pairs, judged_pair, unjudged_pair
from buffers.records import Scores, Slot
from buffers.store.pair_store import PairStore
from tests.buffers.samples import anchor, candidates, conditioning, pair, same, tensor, verdict


@pytest.mark.parametrize(("label", "chosen"), [(1, 0), (2, 1), (3, 0), (4, 1)])
def test_the_label_says_which_side_is_chosen(label, chosen):
    sides = candidates(5, version=3)
    judged = judged_pair(sides, verdict(label))
    latents, seeds = (sides.latents_a, sides.latents_b), (10, 11)
    assert judged.chosen is latents[chosen] and judged.rejected is latents[1 - chosen]
    assert (judged.chosen_id, judged.rejected_id) == (f"c0-{seeds[chosen]}", f"c0-{seeds[1 - chosen]}")
    assert (judged.id, judged.condition_id, judged.policy_version, judged.source) == ("c0-10-11", "c0", 3, "online")
    assert judged.verdict == verdict(label)


def test_the_sample_pair_is_what_the_sample_candidates_become():
    assert same(judged_pair(candidates(5, version=3), verdict()), pair(5, version=3))


@pytest.mark.parametrize("label", [0, 5, -1])
def test_a_label_without_a_choice_is_an_error(label):
    with pytest.raises(ValueError, match=rf"c0-10-11 has the label {label}"):
        judged_pair(candidates(5), dataclasses.replace(verdict(), label=label))


def test_the_larger_score_is_chosen():
    pair = judged_pair(candidates(2), Scores(0.2, 0.9))
    assert (pair.chosen_id, pair.rejected_id, pair.verdict, pair.scores) == ("c0-5", "c0-4", None, Scores(0.2, 0.9))


@pytest.fixture
def store(tmp_path):
    """Six positive anchors and two negative ones, of two conditions."""
    store = PairStore(tmp_path)
    some = [anchor(n, positive=n < 6, condition=n % 2) for n in range(8)]
    store.append(anchors=some, conditionings=[conditioning(0), conditioning(1)])
    yield store
    store.close()


def drawn(stream: AnchorStream, count: int) -> list[str]:
    return [id_ for number in range(count) for id_ in stream.at(Slot("half-online", number)).anchors]


@pytest.mark.parametrize("share", [0.75, 0.6])
def test_polarities_are_mixed_exactly(store, share):
    ids = drawn(AnchorStream(store, positive_share=share, per_request=1, seed=3), 50)
    positive = [int(id_.removeprefix("anchor")) < 6 for id_ in ids]
    assert all(abs(sum(positive[:count]) - share * count) < 1 for count in range(1, 51))


def test_each_anchor_is_used_as_often_as_any_other_of_its_polarity(store):
    ids = drawn(AnchorStream(store, positive_share=0.75, per_request=6, seed=3), 8)
    assert set(Counter(ids).values()) == {6}  # 36 draws over 6 positive ones, 12 over 2 negative ones
    first, second = ([id_ for id_ in ids if int(id_[6:]) < 6][start : start + 6] for start in (0, 6))
    assert sorted(first) == sorted(second) and first != second
    assert ids == drawn(AnchorStream(store, positive_share=0.75, per_request=6, seed=3), 8)
    assert ids != drawn(AnchorStream(store, positive_share=0.75, per_request=6, seed=4), 8)


def test_a_request_names_the_conditions_of_its_anchors_and_noises_of_its_own(store):
    stream = AnchorStream(store, positive_share=0.5, per_request=3, seed=3, first=100)
    requests = [stream.at(Slot("half-online", number)) for number in (1, 0, 1)]
    assert requests[0] == requests[2]
    for request in requests:
        assert [c.id for c in request.conditions] == [f"c{int(id_[6:]) % 2}" for id_ in request.anchors]
    prompts = PromptStream([conditioning(0).condition], per_request=3, seed=3, first=0)
    taken = {seed for number in range(33) for pair in prompts.at(Slot("online", number)).seeds for seed in pair}
    assert not taken & {seed for request in requests for pair in request.seeds for seed in pair}


def test_a_polarity_that_is_wanted_must_be_there(tmp_path):
    store = PairStore(tmp_path)
    store.append(anchors=[anchor(0)], conditionings=[conditioning(0)])
    with pytest.raises(ValueError, match=r"holds no negative anchor; 0\.25 of all"):
        AnchorStream(store, positive_share=0.75, per_request=1, seed=0)
    assert drawn(AnchorStream(store, positive_share=1.0, per_request=1, seed=0), 2) == ["anchor0"] * 2
    store.close()


def test_videos_that_nobody_prefers_are_a_pair_in_their_order():
    made = candidates(5, version=3)
    pair = unjudged_pair(made)
    assert (pair.source, pair.verdict, pair.chosen_id, pair.rejected_id) == ("unjudged", None, "c0-10", "c0-11")
    assert pair.chosen is made.latents_a and pair.rejected is made.latents_b


@pytest.mark.parametrize("positive", [True, False])
def test_a_positive_anchor_is_chosen_and_a_negative_one_rejected(positive):
    made, labelled = candidates(5, version=3), anchor(1, positive=positive)
    one, two = anchored_pairs(labelled, made)
    assert [one.id, two.id] == ["anchor1-10", "anchor1-11"]
    generated = [("c0-10", made.latents_a), ("c0-11", made.latents_b)]
    for each, (id_, latents) in zip((one, two), generated, strict=True):
        sides = [(each.chosen_id, each.chosen), (each.rejected_id, each.rejected)]
        assert same(tuple(sides if positive else sides[::-1]), (("video1", labelled.latents), (id_, latents)))
        assert (each.source, each.policy_version, each.condition_id, each.verdict) == ("half-online", 3, "c0", None)


def test_what_cannot_be_a_pair_is_refused():
    with pytest.raises(ValueError, match="anchor anchor1 is of condition c1, not of c0"):
        anchored_pairs(anchor(1, condition=1), candidates(5))
    longer = dataclasses.replace(anchor(1), latents=tensor(1, shape=(4, 5, 2, 2)))
    with pytest.raises(ValueError, match=r"latents of shape \(4, 5, 2, 2\), the policy makes \(4, 3, 2, 2\)"):
        anchored_pairs(longer, candidates(5))
