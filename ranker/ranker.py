"""The ranker's role: clips in, verdicts out. A plain class; `cluster/spawn.py` makes an actor of it."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from buffers.records import Clips, Domain, RoleTimes, Verdict
from configs.schema import RankerConfig
from ranker.adapter_files import named_adapters
from ranker.frames import sample_frames
from ranker.inputs import Question
from ranker.rubric import RUBRIC_VERSION
from ranker.verdict import Reading, decide
from ranker.vllm_judge import VllmJudge

DEFAULT_DOMAIN: Domain = "general"
"""The rubric for a condition whose prompt file names no domain."""


class Judge(Protocol):
    """What the ranker needs of a judge: `VllmJudge` is one, a test's list of answers another."""

    versions: Mapping[Domain, str]

    def ask(self, questions: Sequence[Question]) -> list[Reading]: ...


@dataclass(frozen=True)
class Opinion:
    """A verdict with what it was read from: the order (A, B), and (B, A) where both are asked."""

    forth: Reading
    back: Reading | None
    verdict: Verdict


class Ranker:
    """Asks the judge about every pair in both orders and gives verdicts, usable or dropped with a reason."""

    def __init__(self, config: RankerConfig, *, judge: Judge | None = None) -> None:
        self.config = config
        self._judge = judge or VllmJudge(
            config.path,
            adapters=named_adapters(config.adapters),
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            max_pixels_per_video=config.max_pixels_per_video,
        )
        self._counts: Counter[str] = Counter()
        self._busy, self._waiting, self._idle_since = 0.0, 0.0, time.monotonic()

    def rank(self, clips: list[Clips]) -> list[Verdict]:
        """One verdict per pair of clips, in order."""
        began = time.monotonic()
        self._waiting += began - self._idle_since
        questions = [
            Question(
                pair.condition.domain or DEFAULT_DOMAIN,
                sample_frames(pair.video_a, fps=pair.fps, count=self.config.frames),
                sample_frames(pair.video_b, fps=pair.fps, count=self.config.frames),
            )
            for pair in clips
        ]
        verdicts = [opinion.verdict for opinion in self.compare(questions)]
        self._counts.update(verdict.dropped or "usable" for verdict in verdicts)
        self._counts["pairs"] += len(verdicts)
        self._idle_since = time.monotonic()
        self._busy += self._idle_since - began
        return verdicts

    def compare(self, questions: Sequence[Question]) -> list[Opinion]:
        """One opinion per pair, in order; all pairs and both orders go to the engine in one call."""
        asked: list[Question] = []
        for question in questions:
            asked.append(question)
            if self.config.both_orders:
                asked.append(question.turned())
        readings = iter(self._judge.ask(asked) if asked else [])
        return [self._opinion(question.domain, readings) for question in questions]

    def _opinion(self, domain: Domain, readings: Iterator[Reading]) -> Opinion:
        forth = next(readings)
        back = next(readings) if self.config.both_orders else None
        verdict = decide(
            forth,
            back,
            min_confidence=self.config.min_confidence,
            min_label_mass=self.config.min_label_mass,
            domain=domain,
            rubric_version=RUBRIC_VERSION,
            ranker_version=self._judge.versions[domain],
        )
        return Opinion(forth, back, verdict)

    def times(self) -> RoleTimes:
        """Seconds judging and idle since the judge was ready; `counts`: pairs, usable, and dropped by reason."""
        return RoleTimes(self._busy, self._waiting + time.monotonic() - self._idle_since, dict(self._counts))
