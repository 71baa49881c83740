"""Several annotators' answers about the same thing: their majority, and how far they agree beyond chance."""

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

Answer = TypeVar("Answer", bound=Hashable)


def majority(votes: Mapping[Answer, int]) -> Answer | None:
    """The answer that more annotators gave than any other; None if two are level, or nobody answered.

    Example: majority({1: 3, 2: 1}) == 1
    """
    first, *rest = Counter(votes).most_common(2) or [(None, 0)]
    return None if rest and rest[0][1] == first[1] else first[0]


class Agreement:
    """Fleiss' kappa, fed one item at a time: agreement of annotators, 0 if it is chance's and 1 if it is full.

    Fleiss (1971). Items may have different numbers of annotators, who need not be the same ones; an item with a single
    answer says nothing about agreement and is left out.
    """

    def __init__(self) -> None:
        self.items, self._agreed, self._answers = 0, 0.0, Counter[Hashable]()

    def add(self, votes: Mapping[Any, int]) -> None:
        """`votes`: answer -> how many gave it."""
        given = sum(votes.values())
        if given < 2:
            return
        self.items += 1
        self._agreed += sum(count * (count - 1) for count in votes.values()) / (given * (given - 1))
        self._answers.update(votes)

    @property
    def kappa(self) -> float | None:
        """None without items, and if nobody ever gave any other answer: chance alone would agree fully then."""
        if not self.items:
            return None
        total = self._answers.total()
        by_chance = sum((count / total) ** 2 for count in self._answers.values())
        return None if by_chance == 1 else (self._agreed / self.items - by_chance) / (1 - by_chance)
