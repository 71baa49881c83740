"""What the judge is taught from, step by step: labelled pairs of video files, both orders, with slow motion mixed in.

Every draw is keyed by (seed, step, place in the step): any rank, and any restart, knows the whole schedule.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from buffers.labels import swapped
from buffers.people.labelled_pairs import LabelledPair
from configs.ranker import RankerTrainingConfig
from ranker.frames import SampledFrames, read_frames
from ranker.questions import Question
from ranker.training.slow_motion import slow_motion_pair


@dataclass(frozen=True)
class Example:
    """A question and the labels that are right: one of the four, or both that name the better video."""

    question: Question
    right: tuple[int, ...]

    def turned(self) -> "Example":
        return Example(self.question.turned(), tuple(map(swapped, self.right)))


class ExampleStream:
    """Each pair once an epoch, in an order of the epoch's own.

    Raises ValueError if there are no pairs or `pairs_per_step` does not divide among the workers.
    """

    def __init__(self, pairs: Sequence[LabelledPair], config: RankerTrainingConfig) -> None:
        if not pairs:
            raise ValueError(f"pairs = {config.pairs}: holds no pair of this domain")
        if config.pairs_per_step % config.num_workers:
            raise ValueError(f"pairs_per_step = {config.pairs_per_step} does not divide among {config.num_workers}")
        self._pairs = pairs
        self._config = config
        self._order = lru_cache(maxsize=2)(self._order_of)

    def take(self, step: int, *, rank: int = 0) -> list[Example]:
        """This rank's examples of a step, 2 x pairs_per_step / num_workers, a pair's two orders side by side.

        Raises ValueError that names the file if a video cannot be read.
        """
        share = self._config.pairs_per_step // self._config.num_workers
        examples = [self._example(step, place) for place in range(rank * share, (rank + 1) * share)]
        return [shown for example in examples for shown in (example, example.turned())]

    def _example(self, step: int, place: int) -> Example:
        epoch, index = divmod(step * self._config.pairs_per_step + place, len(self._pairs))
        pair = self._pairs[self._order(epoch)[index]]
        rng = np.random.default_rng([self._config.seed, step, place])
        slow = self._config.slow_motion
        if rng.random() < slow.share:
            factor = float(rng.choice(slow.factors))
            source = self._read(pair.a if pair.a_is_better else pair.b, math.ceil(factor))
            standard, slowed = slow_motion_pair(source, count=self._config.frames, factor=factor, start=rng.random())
            return Example(Question(pair.domain, standard, slowed), (3,))
        return Example(Question(pair.domain, self._read(pair.a), self._read(pair.b)), pair.right)

    def _read(self, path, times: int = 1) -> SampledFrames:
        config = self._config
        return read_frames(path, count=times * config.frames, max_pixels=times * config.max_pixels_per_video)

    def _order_of(self, epoch: int) -> list[int]:
        return np.random.default_rng([self._config.seed, epoch]).permutation(len(self._pairs)).tolist()
