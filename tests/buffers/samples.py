"""Small records for the tests, each the same for the same number, in any process; nothing here imports torch."""

import numpy as np

from buffers.records import Anchor, Candidates, Condition, EncodedCondition, Pair, TensorData, Verdict


def tensor(number: int, *, shape: tuple[int, ...] = (4, 3, 2, 2)) -> TensorData:
    elements = int(np.prod(shape))
    data = np.random.default_rng(number).integers(0, 256, 2 * elements, dtype=np.uint8)
    return TensorData("bfloat16", shape, data)


def verdict(label: int = 1, *, dropped=None, agreed: bool = True, first_shown: int = 1) -> Verdict:
    return Verdict(label, (0.9, 0.04, 0.05, 0.01), 0.99, agreed, first_shown, dropped, "general", "1", "tiny@3fa2")


def conditioning(number: int) -> EncodedCondition:
    return EncodedCondition(
        Condition(f"c{number}", "a red circle moving left", "general"), tensor(1000 + number, shape=(5, 8))
    )


def pair(number: int, *, version: int = 0, condition: int = 0, shape: tuple[int, ...] = (4, 3, 2, 2)) -> Pair:
    return Pair(
        id=f"c{condition}-{2 * number}-{2 * number + 1}",
        condition_id=f"c{condition}",
        chosen_id=f"c{condition}-{2 * number}",
        rejected_id=f"c{condition}-{2 * number + 1}",
        chosen=tensor(2 * number, shape=shape),
        rejected=tensor(2 * number + 1, shape=shape),
        policy_version=version,
        source="online",
        verdict=verdict(),
    )


def anchor(number: int, *, positive: bool = True, condition: int = 0) -> Anchor:
    return Anchor(f"anchor{number}", f"c{condition}", f"video{number}", positive, tensor(5000 + number))


def candidates(
    number: int, *, version: int = 0, condition: int = 0, shape: tuple[int, ...] = (4, 3, 2, 2)
) -> Candidates:
    """Judged with label 1 (A is chosen), these become `pair(number, ...)`."""
    return Candidates(
        condition=Condition(f"c{condition}", "a red circle moving left", "general"),
        conditioning=conditioning(condition),
        seeds=(2 * number, 2 * number + 1),
        latents_a=tensor(2 * number, shape=shape),
        latents_b=tensor(2 * number + 1, shape=shape),
        policy_version=version,
    )


def same(left: object, right: object) -> bool:
    """Equality of records in which arrays lie; array types and dtypes count, memory layout does not."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if hasattr(left, "__dataclass_fields__"):
        return same(vars(left), vars(right))
    return left == right
