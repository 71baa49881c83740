import pytest

from buffers.people.agreement import Agreement, majority

FLEISS_EXAMPLE = [
    # Ten things, fourteen annotators, five answers: a worked example that textbooks share; kappa is 0.210.
    (0, 0, 0, 0, 14),
    (0, 2, 6, 4, 2),
    (0, 0, 3, 5, 6),
    (0, 3, 9, 2, 0),
    (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0),
    (3, 2, 6, 3, 0),
    (2, 5, 3, 2, 2),
    (6, 5, 2, 1, 0),
    (0, 2, 2, 3, 7),
]


def agreement(rows):
    found = Agreement()
    for row in rows:
        found.add({answer: count for answer, count in enumerate(row) if count})
    return found


def test_kappa_of_the_worked_example():
    assert agreement(FLEISS_EXAMPLE).kappa == pytest.approx(0.210, abs=5e-4)


def test_full_agreement_is_1_and_that_of_chance_about_0():
    assert agreement([(4, 0), (0, 4), (4, 0)]).kappa == 1
    # Two annotators who toss a coin each: half of the items agree, half do not.
    assert agreement([(2, 0), (0, 2), (1, 1), (1, 1)]).kappa == pytest.approx(0)
    assert agreement([(1, 1), (1, 1)]).kappa == -1


def test_items_with_one_answer_say_nothing():
    found = agreement([(1, 0), (0, 1)])
    assert found.items == 0 and found.kappa is None
    assert agreement([(3, 0), (2, 0)]).kappa is None  # Nobody ever said anything else.
    assert agreement([*FLEISS_EXAMPLE, (1, 0, 0, 0, 0)]).kappa == agreement(FLEISS_EXAMPLE).kappa


@pytest.mark.parametrize(
    ("votes", "wins"),
    [({1: 1}, 1), ({1: 1, 2: 2}, 2), ({1: 2, 2: 2}, None), ({1: 2, 2: 2, 3: 1}, None), ({4: 3, 1: 2}, 4)],
)
def test_the_majority_is_one_answer_or_none(votes, wins):
    assert majority(votes) == wins
