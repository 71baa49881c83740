"""The four answers to a question about two videos, A and B, and the reasons why an answer is not learned from.

    label   means                               names
    1       A is less distorted                 A
    2       B is less distorted                 B
    3       distortion alike, A moves better    A
    4       distortion alike, B moves better    B

An annotator may give a choice instead of a label: `a` or `b`, without what decided it.
"""

from typing import Any, Literal, TypeVar, get_args

from configs.sections import Domain

LABELS = (1, 2, 3, 4)
BY_MOTION = (3, 4)
"""Distortion is comparable, and one of the two videos moves better."""

LABELS_OF = {"a": (1, 3), "b": (2, 4)}
"""Choice -> the labels that name the same video."""

MEANINGS = ("A is less distorted", "B is less distorted", "alike, A moves better", "alike, B moves better")
"""Of the labels 1 to 4, in words."""

Four = tuple[float, float, float, float]
"""A number for each of the labels 1 to 4."""

DecidedBy = Literal["distortion", "motion"]
"""What a label compares. Motion decides only if distortion is alike."""

InDoubt = Literal["disagreement", "low_confidence", "low_label_mass"]
DropReason = Literal[InDoubt, "invalid_label", "lost", "motion_share", "tie", "not_finite", "not_asked"]
"""Why a preference is not learned from. It is counted, and never guessed around."""

WHY_DROPPED: dict[DropReason, str] = {
    "disagreement": "the two orders name different videos",
    "low_confidence": "the better video is not sure enough (ranker.min_confidence)",
    "low_label_mass": "the judge would rather say something else (ranker.min_label_mass)",
    "invalid_label": "the judge's own answer is none of the four",
    "lost": "the judge's engine died twice over it",
    "motion_share": "motion decided it, and enough such pairs are kept already (ranker.motion_share)",
    "tie": "the function gives both videos the same score",
    "not_finite": "the function gives a video a score that is not a finite number",
    "not_asked": "the judge does not take the question: too many tokens, or videos of a shape that it cannot read",
}
"""Every drop reason, in words."""

NOT_JUDGED: tuple[DropReason, ...] = ("lost", "not_asked")
"""Nobody answered: such a pair says nothing about the judge."""

IN_DOUBT: tuple[DropReason, ...] = get_args(InDoubt)
"""The judge gave a label, and it is not sure enough: people can say more of such a pair."""

LABEL_COUNTS = tuple(f"label_{label}" for label in LABELS)
KEPT_COUNTS = tuple(f"kept_{kind}" for kind in get_args(DecidedBy))
DROP_COUNTS = tuple(f"dropped_{reason}" for reason in WHY_DROPPED)

PLACES = tuple(f"{domain}_{label}" for domain in get_args(Domain) for label in LABELS)
DISAGREED, FIRST = "disagreed_{}", "first_{}"
"""Of a place (a domain and a label): pairs whose two orders name different videos, and those of them for which both
orders chose the video shown first. If a judge favours no position, that is half of them. A pair on which the orders
agree has one vote for the first and one for the second, whatever the judge favours: it tells nothing."""

POSITION_COUNTS = tuple(key.format(place) for key in (DISAGREED, FIRST) for place in PLACES)

TALLY = ("judged", "scored", *LABEL_COUNTS, "agreed", *POSITION_COUNTS, *KEPT_COUNTS, *DROP_COUNTS)
"""What is counted of answers (`Preference.counts`): all of them (judged), a function's scores among them (scored), each
label, both orders agreeing, what tells a position bias, labels that are not dropped by what decided them (distortion or
motion), and each drop reason.

A dropped answer counts in all of these but `kept_`. One that nobody gave (`NOT_JUDGED`) counts as dropped alone."""

Answer = TypeVar("Answer", bound=int | str)
_SWAPPED: dict[Any, Any] = {1: 2, 2: 1, 3: 4, 4: 3, "a": "b", "b": "a"}


def choice_of(answer: int | str) -> str:
    """The video that a label or a choice names: `a` or `b`."""
    return "a" if answer in ("a", *LABELS_OF["a"]) else "b"


def swapped(answer: Answer) -> Answer:
    """The label or choice that says the same if the two videos change places."""
    return _SWAPPED[answer]


def swapped_probabilities(probabilities: Four) -> Four:
    """The probabilities of the labels 1 to 4 if the two videos change places."""
    one, two, three, four = probabilities
    return (two, one, four, three)


def a_is_likelier(probabilities: Four) -> bool:
    """Whether the labels that name A outweigh those that name B.

    The two labels of a video are added first. A judge that is torn between "less distorted" and "moves better" for the
    same video is still sure of the video.
    """
    one, two, three, four = probabilities
    return one + three >= two + four
