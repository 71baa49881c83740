"""Items in portions: what is asked for, read or written at once."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def portions(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    """The items in order, `count` in a list; the last list may be shorter. Nothing is read ahead.

    Example: list(portions("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
    """
    iterator = iter(items)
    while some := list(islice(iterator, count)):
        yield some
