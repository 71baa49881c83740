"""How many pairs of each source a batch holds: exact over time, not only on average."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

Kind = TypeVar("Kind", bound=Hashable)


def quotas(shares: Mapping[Kind, float], drawn: Mapping[Kind, int], count: int) -> dict[Kind, int]:
    """How many of the next `count` items come from each source of pairs.

    `shares` sum to 1; `drawn`: how many were drawn so far. Each place goes to the source with the largest shortfall.
    With two sources the error stays below one item; with three it is at most two.

    Example: quotas({"online": 0.75, "half-online": 0.25}, {"online": 3, "half-online": 1}, 2) == {"online": 2}
    """
    behind = {source: -drawn.get(source, 0) for source in shares}
    total, given = sum(drawn.get(source, 0) for source in shares), dict.fromkeys(shares, 0)
    for place in range(total + 1, total + count + 1):
        source = max(shares, key=lambda s: shares[s] * place + behind[s])
        behind[source] -= 1
        given[source] += 1
    return {source: number for source, number in given.items() if number}
