"""From candidates and the ranker's verdict to a pair, and the running tally of verdicts."""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from buffers.records import Candidates, DropReason, Pair, Preference, Verdict

LABELS = (1, 2, 3, 4)
BY_MOTION = (3, 4)
"""Distortion is comparable, and one of the two moves more."""

TALLY = (
    "judged",
    "scored",
    *(f"label_{label}" for label in LABELS),
    "agreed",
    "first_shown",
    *(f"dropped_{reason}" for reason in get_args(DropReason)),
)
"""What is counted of answers: all of them (judged), a function's scores among them (scored), each label, both orders
agreeing, orders that chose the video shown first, and each reason for which an answer is not learned from. Dropped ones
count in all of these, except `lost`: nobody judged them."""


def tally(preferences: Sequence[Preference]) -> Counter[str]:
    """The keys of TALLY summed over the answers. `first_shown / (2 judged)` far from one half is a position bias.

    A function's scores have no label and no order: they count as judged, as scored, and as dropped by their reason.
    """
    verdicts = [each for each in preferences if isinstance(each, Verdict)]
    scores = [each for each in preferences if not isinstance(each, Verdict)]
    return (
        _tally(verdicts)
        + Counter(judged=len(scores), scored=len(scores))
        + Counter(f"dropped_{each.dropped}" for each in scores if each.dropped)
    )


def _tally(verdicts: list[Verdict]) -> Counter[str]:
    judged = [verdict for verdict in verdicts if verdict.dropped != "lost"]
    counts = Counter(judged=len(judged))
    if len(judged) < len(verdicts):
        counts["dropped_lost"] = len(verdicts) - len(judged)
    for verdict in judged:
        if verdict.label in LABELS:
            counts[f"label_{verdict.label}"] += 1
        counts["agreed"] += verdict.agreed
        counts["first_shown"] += verdict.first_shown
        if verdict.dropped is not None:
            counts[f"dropped_{verdict.dropped}"] += 1
    return counts


def judged_pair(candidates: Candidates, preference: Preference) -> Pair:
    """The pair as the learner takes it. Its id names condition and noise: `{condition id}-{seed a}-{seed b}`.

    Raises ValueError if the label is none of 1 to 4: a verdict without a choice must be dropped, not guessed around.
    """
    seed_a, seed_b = candidates.seeds
    pair_id = f"{candidates.condition.id}-{seed_a}-{seed_b}"
    verdict = preference if isinstance(preference, Verdict) else None
    if verdict is not None and verdict.label not in LABELS:
        raise ValueError(f"pair {pair_id} has the label {verdict.label}; one that is learned from has 1, 2, 3 or 4")
    a, b = (candidates.latents_a, seed_a), (candidates.latents_b, seed_b)
    (chosen, chosen_seed), (rejected, rejected_seed) = (a, b) if preference.a_is_chosen else (b, a)
    return Pair(
        id=pair_id,
        condition_id=candidates.condition.id,
        chosen_id=f"{candidates.condition.id}-{chosen_seed}",
        rejected_id=f"{candidates.condition.id}-{rejected_seed}",
        chosen=chosen,
        rejected=rejected,
        policy_version=candidates.policy_version,
        source="online",
        verdict=verdict,
    )
