"""From the label log-probabilities of both orders to one verdict, or to the reason why there is none. Pure."""

import math
from dataclasses import dataclass

from buffers.records import Domain, DropReason, Verdict

Four = tuple[float, float, float, float]


@dataclass(frozen=True)
class Reading:
    """One answer of the judge, about (first shown, second shown).

    `logprobs`: full-vocabulary natural log-probabilities of the labels 1 to 4; what their exponentials lack to 1 went
    to tokens that are no verdict. `answered`: the token it would really say is one of the four.
    """

    logprobs: Four
    answered: bool

    @property
    def mass(self) -> float:
        """Probability that any of the four labels is said; 0 where a log-probability is not a number."""
        total = sum(math.exp(value) for value in self.logprobs)
        return total if math.isfinite(total) else 0.0

    @property
    def probabilities(self) -> Four:
        """Of the four labels, normalised over them; even where nothing can be read."""
        if self.mass == 0.0:
            return (0.25, 0.25, 0.25, 0.25)
        top = max(self.logprobs)
        one, two, three, four = (math.exp(value - top) for value in self.logprobs)
        total = one + two + three + four
        return (one / total, two / total, three / total, four / total)


def swapped(probabilities: Four) -> Four:
    """The same answer with the two videos' names exchanged: 1 <-> 2, 3 <-> 4."""
    one, two, three, four = probabilities
    return (two, one, four, three)


def first_is_better(probabilities: Four) -> bool:
    """Whether the labels that name the first video (1 and 3) outweigh those that name the second (2 and 4).

    The two labels of a video are added before they are compared: a judge that wavers between "less distorted" and
    "moves better" for the same video is still sure of the video.
    """
    one, two, three, four = probabilities
    return one + three >= two + four


def decide(
    forth: Reading,
    back: Reading | None,
    *,
    min_confidence: float,
    min_label_mass: float,
    domain: Domain,
    rubric_version: str,
    ranker_version: str,
) -> Verdict:
    """The verdict on (A, B) from the order A, B (`forth`) and the order B, A (`back`; None where only one is asked).

    The chosen video is the one with more probability, averaged over the orders; the label is the likelier of its two.
    `dropped` names the first that holds of: a token that is no label, too little mass on the labels, orders that name
    different videos, too little confidence.
    """
    readings = [forth] if back is None else [forth, back]
    seen = [forth.probabilities] if back is None else [forth.probabilities, swapped(back.probabilities)]
    one, two, three, four = (sum(column) / len(seen) for column in zip(*seen, strict=True))
    a_named = [first_is_better(probabilities) for probabilities in seen]
    a_chosen = first_is_better((one, two, three, four))
    label = (1 if one >= three else 3) if a_chosen else (2 if two >= four else 4)
    mass = min(reading.mass for reading in readings)
    confidence = one + three if a_chosen else two + four
    dropped: DropReason | None = None
    if not all(reading.answered for reading in readings):
        dropped = "invalid_label"
    elif mass < min_label_mass:
        dropped = "low_label_mass"
    elif len(set(a_named)) > 1:
        dropped = "disagreement"
    elif confidence < min_confidence:
        dropped = "low_confidence"
    return Verdict(
        label=label,
        probabilities=(one, two, three, four),
        label_mass=mass,
        agreed=len(set(a_named)) == 1,
        first_shown=int(a_named[0]) + (int(not a_named[1]) if back is not None else 0),
        dropped=dropped,
        domain=domain,
        rubric_version=rubric_version,
        ranker_version=ranker_version,
    )
