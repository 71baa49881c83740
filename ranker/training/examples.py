"""What the judge is taught from, step by step: labelled pairs of video files, both orders, with slow motion mixed in.

Every draw is keyed by (seed, step, place in the step): any rank, and any restart, knows the whole schedule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from buffers.labels import swapped
from buffers.people.labelled_pairs import LabelledPair
from configs.ranker import RankerTrainingConfig
from ranker.frames import SampledFrames, read_frames
from ranker.questions import Question
from ranker.training.slow_motion import frames_wanted, slow_motion_pair


@dataclass(frozen=True)
class Example:
    """A question and the labels that are right: one of the four, or both that name the better video."""

    question: Question
    right: tuple[int, ...]

    def turned(self) -> "Example":
        return Example(self.question.turned(), tuple(map(swapped, self.right)))


class ExampleStream:
    """Each pair once an epoch, in an order of the epoch's own.

    Damage in the middle of a file shows only once it is read. A pair that cannot be read is replaced by the next of the
    epoch's order that can, and `left_out` says why: a step has as many examples on every rank, and what other places
    show does not change.

    Raises ValueError if there are no pairs or `pairs_per_step` does not divide among the workers.
    """

    def __init__(self, pairs: Sequence[LabelledPair], config: RankerTrainingConfig) -> None:
        if not pairs:
            raise ValueError(f"pairs = {config.pairs}: holds no pair of this domain")
        if config.pairs_per_step % config.num_workers:
            raise ValueError(f"pairs_per_step = {config.pairs_per_step} does not divide among {config.num_workers}")
        self._pairs = pairs
        self._config = config
        self.left_out: dict[str, None] = {}
        self._order = lru_cache(maxsize=2)(self._order_of)

    def take(self, step: int, *, rank: int = 0) -> list[Example]:
        """This rank's examples of a step, 2 x pairs_per_step / num_workers, a pair's two orders side by side.

        Raises ValueError if no pair can be read, and OSError if a file has gone or its disk fails.
        """
        share = self._config.pairs_per_step // self._config.num_workers
        examples = [self._example(step, place) for place in range(rank * share, (rank + 1) * share)]
        return [shown for example in examples for shown in (example, example.turned())]

    def _example(self, step: int, place: int) -> Example:
        epoch, index = divmod(step * self._config.pairs_per_step + place, len(self._pairs))
        rng = np.random.default_rng([self._config.seed, step, place])
        slow = self._config.slow_motion
        factor = float(rng.choice(slow.factors)) if rng.random() < slow.share.get(self._pairs[0].domain, 0.0) else None
        start, order = rng.random(), self._order(epoch)
        for number in (*order[index:], *order[:index]):
            try:
                return self._of_pair(self._pairs[number], factor, start)
            except ValueError as error:
                self.left_out[str(error)] = None
        why = next(iter(self.left_out))
        raise ValueError(f"pairs = {self._config.pairs}: none of the {len(order)} pairs can be read, first {why}")

    def _of_pair(self, pair: LabelledPair, factor: float | None, start: float) -> Example:
        """The pair itself, or if there is a `factor` a part of its better video beside a slowed part of it."""
        framed = pair.first_frame is not None
        if factor is None:
            return Example(Question(pair.domain, self._read(pair.a), self._read(pair.b), framed=framed), pair.right)
        better, count = pair.a if pair.a_is_better else pair.b, self._config.frames
        wanted = frames_wanted(factor, count)
        pixels = self._config.max_pixels_per_video * wanted // count
        source = read_frames(better, count=wanted, max_pixels=pixels, evenly=True)
        standard, slowed = slow_motion_pair(source, count=count, factor=factor, start=start)
        return Example(Question(pair.domain, standard, slowed, framed=framed), (3,))

    def _read(self, path: Path) -> SampledFrames:
        return read_frames(path, count=self._config.frames, max_pixels=self._config.max_pixels_per_video)

    def _order_of(self, epoch: int) -> list[int]:
        return np.random.default_rng([self._config.seed, epoch]).permutation(len(self._pairs)).tolist()
