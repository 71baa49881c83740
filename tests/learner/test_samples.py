import itertools
import random

from learner.samples import microbatches

A, B, C = (16, 3, 8, 8), (16, 3, 4, 16), (16, 3, 16, 4)


def test_a_microbatch_has_one_shape():
    assert microbatches([A, B, A], 2) == [[0, 2], [1]]
    assert microbatches([A, A, A], 2) == [[0, 1], [2]]


def test_all_ranks_make_equally_many_of_every_sample_once():
    draw = random.Random(0)
    for _ in range(200):
        ranks, share, count = draw.choice([2, 4]), draw.choice([1, 3, 4]), draw.choice([1, 2, 4])
        shapes = [[draw.choice([A, B, C]) for _ in range(share)] for _ in range(ranks)]
        made = [microbatches(own, count, of_ranks=shapes) for own in shapes]
        assert len({len(each) for each in made}) == 1
        # No more than the rank that needs most.
        assert len(made[0]) == max(len(microbatches(own, count)) for own in shapes)
        for own, some in zip(shapes, made, strict=True):
            assert sorted(itertools.chain.from_iterable(some)) == list(range(share))
            assert all(1 <= len(each) <= count and len({own[place] for place in each}) == 1 for each in some)
