"""A function of the user's own as the judge: a metric or a reward model that scores one video at a time."""

import math
import threading
from collections import Counter

from buffers.clock import RoleClock
from buffers.records import CandidateVideos, RoleTimes, Scores
from configs.sections import RankerConfig
from configs.user_function import user_function

EXAMPLE = "my_metrics:score"


class FunctionRanker:
    """The ranker's role with `ranker.function` as the judge: of two videos the one with the larger score is preferred.

    The function is called with (frames uint8 [frames, height, width, 3], prompt) and returns a number, larger is
    better. Raises ValueError that names `ranker.function` if it cannot be imported.
    """

    def __init__(self, config: RankerConfig) -> None:
        assert config.function is not None, "the schema asks for ranker.function if ranker.kind is function"
        self._score = user_function(config.function, key="ranker.function", example=EXAMPLE)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._clock = RoleClock()

    def rank(self, clips: list[CandidateVideos]) -> list[Scores]:
        """The scores of both videos of each pair, in order. A pair without a preference is dropped with its reason."""
        with self._lock, self._clock.answering():  # a function need not be ready for several threads
            scores = [self._scores(pair) for pair in clips]
            self._counts.update(pairs=len(scores))
            self._counts.update(each.dropped or "usable" for each in scores)
        return scores

    def times(self) -> RoleTimes:
        """Seconds in the function and outside of it since it was built; `counts`: pairs, usable, dropped by reason."""
        return self._clock.times(self._counts)

    def _scores(self, pair: CandidateVideos) -> Scores:
        a, b = (float(self._score(video, pair.condition.prompt)) for video in (pair.video_a, pair.video_b))
        if not (math.isfinite(a) and math.isfinite(b)):
            return Scores(a, b, dropped="not_finite")
        return Scores(a, b, dropped="tie" if a == b else None)
