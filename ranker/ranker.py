"""The ranker's role: clips in, verdicts out. A plain class; `cluster/on_ray/crew.py` makes an actor of it."""

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, get_args

from buffers.clock import RoleClock
from buffers.labels import NOT_JUDGED, WHY_DROPPED, DecidedBy
from buffers.records import CandidateVideos, Domain, RoleTimes, Verdict
from configs.sections import RankerConfig
from ranker.frames import sample_frames
from ranker.judges.qwen_vl import EngineDied, VllmJudge
from ranker.questions import Question
from ranker.rubric import DOMAIN_LABELS
from ranker.verdict import NOTHING, Reading, decide, doubts

MOST_LOST = 3
"""Calls in a row that may be lost with their engine before the ranker gives up."""

DEFAULT_DOMAIN: Domain = "general"
"""The rubric if the judge itself cannot say which one fits."""

T = TypeVar("T")


class Judge(Protocol):
    """What the ranker needs of a judge: `VllmJudge` is one, a test's list of answers another."""

    @property
    def versions(self) -> Mapping[Domain, str]: ...

    def ask(self, questions: Sequence[Question]) -> list[Reading]: ...

    def ask_domain(self, descriptions: Sequence[str]) -> list[Reading]: ...


@dataclass(frozen=True)
class Opinion:
    """A verdict with what it was read from: the order (A, B), and (B, A) if both are asked."""

    forth: Reading
    back: Reading | None
    verdict: Verdict

    @property
    def problem(self) -> str:
        """Why nobody has judged the pair; empty if somebody has."""
        if self.verdict.dropped not in NOT_JUDGED:
            return ""
        problems = (reading.problem for reading in (self.forth, self.back) if reading and reading.problem)
        return next(problems, WHY_DROPPED[self.verdict.dropped])


class Ranker:
    """Asks the judge about every pair in both orders and gives verdicts, usable or dropped with a reason.

    counted: what the run has counted so far (`ReplayBuffer.counts`), so that a ranker of a run that goes on, or one in
    place of a dead one, goes on with its part of the run's `motion_share`. open_judge: by default vLLM serves the
    config's judge in this process.
    """

    def __init__(
        self,
        config: RankerConfig,
        counted: Mapping[str, int] | None = None,
        *,
        open_judge: Callable[[RankerConfig], Judge] = VllmJudge,
    ) -> None:
        self.config = config
        self._kept = {kind: (counted or {}).get(f"kept_{kind}", 0) / config.num_actors for kind in get_args(DecidedBy)}
        self._open_judge = open_judge
        self._judge = open_judge(config)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._domains: dict[str, Domain] = {}
        self._lost_in_a_row = 0
        self._clock = RoleClock()

    def rank(self, clips: list[CandidateVideos]) -> list[Verdict]:
        """One verdict per pair of clips, in order. Callers may be several threads: the judge batches them."""
        with self._clock.answering():
            verdicts = self._rank(clips)
        with self._lock:
            verdicts = self._within_motion_share(verdicts)
            self._counts["pairs"] += len(verdicts)
            for verdict in verdicts:
                self._counts[verdict.dropped or "usable"] += 1
                if verdict.dropped is None:
                    self._counts.update(f"{doubt}_kept" for doubt in doubts(verdict, self.config))
        return verdicts

    def compare(self, questions: Sequence[Question]) -> list[Opinion]:
        """One opinion per pair, in order; all pairs and both orders go to the judge in one call.

        If the engine crashes, a new one is started and the questions are sent again, once. If it crashes again, these
        pairs are dropped as `lost`. A pair whose question the judge does not take is dropped as `not_asked`; the others
        are judged. Raises EngineDied once `MOST_LOST` calls in a row were lost.
        """
        orders = 2 if self.config.both_orders else 1
        asked = [order for question in questions for order in (question, question.turned())[:orders]]
        judge, readings = self._ask(lambda judge: judge.ask(asked)) if asked else (self._judge, [])
        if readings is None:
            return [Opinion(NOTHING, None, self._lost(judge, question.domain)) for question in questions]
        of = iter(readings)
        opinions = []
        for question in questions:
            forth, back = next(of), next(of) if self.config.both_orders else None
            opinions.append(Opinion(forth, back, self._verdict(judge, question.domain, forth, back)))
        return opinions

    def domains_of(self, descriptions: Sequence[str]) -> list[Domain | None]:
        """Which rubric fits each description, asked of the judge once for each text; None if it was lost.

        `DEFAULT_DOMAIN` (counted as `domain_unsure`) if the two answers hold less than `min_label_mass`, or (counted as
        `domain_not_asked`) if the judge does not take the question: a description longer than its context.
        """
        unknown = [text for text in dict.fromkeys(descriptions) if text not in self._domains]
        _, readings = self._ask(lambda judge: judge.ask_domain(unknown)) if unknown else (self._judge, [])
        for text, reading in zip(unknown, readings or [], strict=readings is not None):
            masses = [math.exp(value) for value in reading.logprobs[: len(DOMAIN_LABELS)]]
            sure = math.isfinite(sum(masses)) and sum(masses) >= self.config.min_label_mass
            with self._lock:
                self._counts["domains_asked"] += 1
                self._counts["domain_not_asked" if reading.problem else "domain_unsure"] += not sure
                self._domains[text] = DOMAIN_LABELS[masses.index(max(masses))] if sure else DEFAULT_DOMAIN
        return [self._domains.get(text) for text in descriptions]

    def times(self) -> RoleTimes:
        """Seconds judging and idle since the judge was ready; `counts`: pairs, usable, dropped by reason,
        `<reason>_kept` of what is usable although it is in doubt, and descriptions whose domain was asked."""
        with self._lock:
            return self._clock.times(self._counts)

    def _rank(self, clips: list[CandidateVideos]) -> list[Verdict]:
        unnamed = [pair.condition.prompt for pair in clips if pair.condition.domain is None]
        asked = iter(self.domains_of(unnamed))
        domains: list[Domain | None] = [pair.condition.domain or next(asked) for pair in clips]
        questions = [self._question(pair, domain) for pair, domain in zip(clips, domains, strict=True) if domain]
        opinions = iter(self.compare(questions))
        return [next(opinions).verdict if domain else self._lost(self._judge, DEFAULT_DOMAIN) for domain in domains]

    def _within_motion_share(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Drops those that motion decided beyond their share of all that this ranker has kept."""
        within = list(verdicts)
        # Those that distortion decided come first: they make room for the others of the same call.
        for place in sorted(range(len(within)), key=lambda place: within[place].decided_by):
            verdict = within[place]
            if verdict.dropped:
                continue
            room = self.config.motion_share * (sum(self._kept.values()) + 1)
            if verdict.decided_by == "motion" and self._kept["motion"] + 1 > room:
                within[place] = replace(verdict, dropped="motion_share")
            else:
                self._kept[verdict.decided_by] += 1
        return within

    def _question(self, pair: CandidateVideos, domain: Domain) -> Question:
        videos, count = (pair.video_a, pair.video_b), self.config.frames
        one, two = (sample_frames(video, fps=pair.fps, count=count) for video in videos)
        return Question(domain, one, two, framed=pair.condition.picture is not None)

    def _ask(self, what: Callable[[Judge], T]) -> tuple[Judge, T | None]:
        """The judge that answered, and what it said; None if two engines died over it."""
        judge = self._judge
        for _ in range(2):
            try:
                said = what(judge)
                self._lost_in_a_row = 0
                return judge, said
            except EngineDied:
                judge = self._replaced(judge)
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= MOST_LOST:
            raise EngineDied(f"the judge's engine died {MOST_LOST} times in a row, twice over each question")
        return judge, None

    def _replaced(self, dead: Judge) -> Judge:
        """A living judge; several callers of a dead one get the same new one."""
        with self._lock:
            if self._judge is dead:
                self._counts["engines_lost"] += 1
                self._judge = self._open_judge(self.config)
            return self._judge

    def _verdict(self, judge: Judge, domain: Domain, forth: Reading, back: Reading | None) -> Verdict:
        return decide(forth, back, self.config, domain=domain, ranker_version=judge.versions[domain])

    def _lost(self, judge: Judge, domain: Domain) -> Verdict:
        return replace(self._verdict(judge, domain, NOTHING, None), dropped="lost")
