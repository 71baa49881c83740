"""From the label log-probabilities of both orders to one verdict, or to the reason why there is none. Pure."""

import math
from dataclasses import dataclass, replace

from buffers.labels import DropReason, Four, a_is_likelier, swapped_probabilities
from buffers.records import Domain, Verdict
from configs.sections import Doubtful, RankerConfig
from ranker.rubric import RUBRIC_VERSION


@dataclass(frozen=True)
class Reading:
    """One answer of the judge, about (first shown, second shown).

    `problem`: a sentence that says why the question was not asked; nothing else of the reading means anything then.

    `logprobs`: full-vocabulary natural log-probabilities of the labels 1 to 4; what their exponentials lack to 1 went
    to tokens that are no verdict. `answered`: the token it would really say is one of the four.
    """

    logprobs: Four
    answered: bool
    problem: str = ""

    @property
    def mass(self) -> float:
        """Probability that any of the four labels is said; 0 if a log-probability is not a number."""
        total = sum(math.exp(value) for value in self.logprobs)
        return total if math.isfinite(total) else 0.0

    @property
    def probabilities(self) -> Four:
        """Of the four labels, normalised over them; even if nothing can be read."""
        if self.mass == 0.0:
            return (0.25, 0.25, 0.25, 0.25)
        top = max(self.logprobs)
        one, two, three, four = (math.exp(value - top) for value in self.logprobs)
        total = one + two + three + four
        return (one / total, two / total, three / total, four / total)


NOTHING = Reading((-math.inf, -math.inf, -math.inf, -math.inf), answered=False)
"""What is read if there is no answer."""


def decide(
    forth: Reading, back: Reading | None, config: RankerConfig, *, domain: Domain, ranker_version: str
) -> Verdict:
    """The verdict on (A, B) from the order A, B (`forth`) and the order B, A (`back`; None if only one is asked).

    The chosen video is the one with more probability, averaged over the orders; the label is the likelier of its two.
    `dropped` is the gravest doubt that `config` does not keep.
    """
    seen = [forth.probabilities] if back is None else [forth.probabilities, swapped_probabilities(back.probabilities)]
    one, two, three, four = (sum(column) / len(seen) for column in zip(*seen, strict=True))
    a_named = [a_is_likelier(probabilities) for probabilities in seen]
    a_chosen = a_is_likelier((one, two, three, four))
    readings = [forth] if back is None else [forth, back]
    verdict = Verdict(
        label=(1 if one >= three else 3) if a_chosen else (2 if two >= four else 4),
        probabilities=(one, two, three, four),
        label_mass=min(reading.mass for reading in readings),
        agreed=len(set(a_named)) == 1,
        first_shown=int(a_named[0]) + (int(not a_named[1]) if back is not None else 0),
        dropped=None,
        domain=domain,
        rubric_version=RUBRIC_VERSION,
        ranker_version=ranker_version,
    )
    if any(reading.problem for reading in readings):
        return replace(verdict, dropped="not_asked")
    if not all(reading.answered for reading in readings):
        return replace(verdict, dropped="invalid_label")
    reasons = (doubt for doubt, action in doubts(verdict, config).items() if action == "drop")
    return replace(verdict, dropped=next(reasons, None))


def doubts(verdict: Verdict, config: RankerConfig) -> dict[DropReason, Doubtful]:
    """What speaks against learning from an answered verdict, the gravest doubt first, and what the config does then.

    Too little mass on the labels, orders that name different videos, too little confidence.
    """
    doubts: list[tuple[DropReason, bool, Doubtful]] = [
        ("low_label_mass", verdict.label_mass < config.min_label_mass, config.low_label_mass),
        ("disagreement", not verdict.agreed, config.disagreement),
        ("low_confidence", verdict.confidence < config.min_confidence, config.low_confidence),
    ]
    return {doubt: action for doubt, holds, action in doubts if holds}
