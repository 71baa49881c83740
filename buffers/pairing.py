"""How two videos become a pair: two generated videos, judged or not, or an anchor and a generated video.

The last is the half-online stage (paper, section 3.3). A positive anchor is chosen over what the policy makes of its
condition. A negative anchor is rejected for it.
"""

from typing import Any

from buffers.labels import LABELS
from buffers.records import Anchor, Candidates, Pair, Preference, Scores, TensorData, Verdict

Video = tuple[str, TensorData]
"""Id and latents."""


def judged_pair(candidates: Candidates, preference: Preference) -> Pair:
    """The pair as the learner takes it. Its id names condition and noise: `{condition id}-{seed a}-{seed b}`.

    Raises ValueError if the label is none of 1 to 4: a verdict without a choice must be dropped, not guessed around.
    """
    pair_id = _pair_id(candidates)
    verdict = preference if isinstance(preference, Verdict) else None
    if verdict is not None and verdict.label not in LABELS:
        raise ValueError(f"pair {pair_id} has the label {verdict.label}; one that is learned from has 1, 2, 3 or 4")
    a, b = _sides(candidates)
    sides = (a, b) if preference.a_is_chosen else (b, a)
    scores = preference if isinstance(preference, Scores) else None
    return _pair(candidates, pair_id, sides, source="online", verdict=verdict, scores=scores)


def anchored_pairs(anchor: Anchor, candidates: Candidates) -> list[Pair]:
    """The anchor with each of the two generated videos; no ranker is asked.

    Raises ValueError if they are of different conditions, or their latents differ in shape.
    """
    if anchor.condition_id != candidates.condition.id:
        raise ValueError(f"anchor {anchor.id} is of condition {anchor.condition_id}, not of {candidates.condition.id}")
    given, pairs = (anchor.video_id, anchor.latents), []
    for seed, generated in zip(candidates.seeds, _sides(candidates), strict=True):
        _, latents = generated
        if latents.shape != anchor.latents.shape:
            raise ValueError(
                f"anchor {anchor.id} has latents of shape {anchor.latents.shape}, the policy makes {latents.shape}: "
                "ingest it at the size and length that is sampled"
            )
        sides = (given, generated) if anchor.positive else (generated, given)
        pairs.append(_pair(candidates, f"{anchor.id}-{seed}", sides, source="half-online"))
    return pairs


def unjudged_pair(candidates: Candidates) -> Pair:
    """Two generated videos of which neither is preferred: "chosen" and "rejected" mean nothing."""
    return _pair(candidates, _pair_id(candidates), _sides(candidates), source="unjudged")


def _pair_id(candidates: Candidates) -> str:
    return "-".join([candidates.condition.id, *map(str, candidates.seeds)])


def _sides(candidates: Candidates) -> tuple[Video, Video]:
    """The videos A and B."""
    a, b = (f"{candidates.condition.id}-{seed}" for seed in candidates.seeds)
    return (a, candidates.latents_a), (b, candidates.latents_b)


def _pair(candidates: Candidates, id_: str, sides: tuple[Video, Video], **facts: Any) -> Pair:
    """`sides`: the chosen video and the rejected one. `facts`: the pair's source and evidence."""
    (chosen_id, chosen), (rejected_id, rejected) = sides
    ids = (id_, candidates.condition.id, chosen_id, rejected_id)
    return Pair(*ids, chosen, rejected, candidates.policy_version, **facts)
