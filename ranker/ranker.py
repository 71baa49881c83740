"""The ranker's role: clips in, verdicts out. A plain class; `cluster/spawn.py` makes an actor of it."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from buffers.records import Clips, Domain, RoleTimes, Verdict
from configs.schema import RankerConfig
from ranker.frames import sample_frames
from ranker.rubric import RUBRIC_VERSION
from ranker.verdict import Reading, decide
from ranker.vllm_judge import Question, VllmJudge

DEFAULT_DOMAIN: Domain = "general"
"""The rubric for a condition whose prompt file names no domain."""


class Judge(Protocol):
    """What the ranker needs of a judge: `VllmJudge` is one, a test's list of answers another."""

    version: str

    def ask(self, questions: Sequence[Question]) -> list[Reading]: ...


class Ranker:
    """Asks the judge about every pair in both orders and gives verdicts, usable or dropped with a reason."""

    def __init__(self, config: RankerConfig, *, judge: Judge | None = None) -> None:
        self.config = config
        self._judge = judge or VllmJudge(
            config.path,
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            max_pixels_per_video=config.max_pixels_per_video,
        )
        self._counts: Counter[str] = Counter()
        self._busy, self._waiting, self._idle_since = 0.0, 0.0, time.monotonic()

    def rank(self, clips: list[Clips]) -> list[Verdict]:
        """One verdict per pair of clips, in order; all pairs and both orders go to the engine in one call."""
        began = time.monotonic()
        self._waiting += began - self._idle_since
        domains: list[Domain] = [pair.condition.domain or DEFAULT_DOMAIN for pair in clips]
        questions = []
        for pair, domain in zip(clips, domains, strict=True):
            a, b = (
                sample_frames(video, fps=pair.fps, count=self.config.frames) for video in (pair.video_a, pair.video_b)
            )
            questions.append(Question(domain, a, b))
            if self.config.both_orders:
                questions.append(Question(domain, b, a))
        readings = self._judge.ask(questions) if questions else []
        per_pair = 2 if self.config.both_orders else 1
        verdicts = [
            decide(
                readings[per_pair * index],
                readings[per_pair * index + 1] if self.config.both_orders else None,
                min_confidence=self.config.min_confidence,
                min_label_mass=self.config.min_label_mass,
                domain=domain,
                rubric_version=RUBRIC_VERSION,
                ranker_version=self._judge.version,
            )
            for index, domain in enumerate(domains)
        ]
        self._counts.update(verdict.dropped or "usable" for verdict in verdicts)
        self._counts["pairs"] += len(verdicts)
        self._idle_since = time.monotonic()
        self._busy += self._idle_since - began
        return verdicts

    def times(self) -> RoleTimes:
        """Seconds judging and idle since the judge was ready; `counts`: pairs, usable, and dropped by reason."""
        return RoleTimes(self._busy, self._waiting + time.monotonic() - self._idle_since, dict(self._counts))
