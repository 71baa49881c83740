"""How two videos become a pair: two generated videos that were judged, or an anchor and a generated video.

The second is the half-online stage (paper, section 3.3). A positive anchor is chosen over what the policy makes of its
condition. A negative anchor is rejected for it.
"""

from buffers.labels import LABELS
from buffers.records import Anchor, Candidates, Pair, Preference, Scores, TensorData, Verdict


def judged_pair(candidates: Candidates, preference: Preference) -> Pair:
    """The pair as the learner takes it. Its id names condition and noise: `{condition id}-{seed a}-{seed b}`.

    Raises ValueError if the label is none of 1 to 4: a verdict without a choice must be dropped, not guessed around.
    """
    seed_a, seed_b = candidates.seeds
    pair_id = f"{candidates.condition.id}-{seed_a}-{seed_b}"
    verdict = preference if isinstance(preference, Verdict) else None
    if verdict is not None and verdict.label not in LABELS:
        raise ValueError(f"pair {pair_id} has the label {verdict.label}; one that is learned from has 1, 2, 3 or 4")
    sides = _sides(candidates)
    (chosen_id, chosen), (rejected_id, rejected) = sides if preference.a_is_chosen else reversed(sides)
    return Pair(
        id=pair_id,
        condition_id=candidates.condition.id,
        chosen_id=chosen_id,
        rejected_id=rejected_id,
        chosen=chosen,
        rejected=rejected,
        policy_version=candidates.policy_version,
        source="online",
        verdict=verdict,
        scores=preference if isinstance(preference, Scores) else None,
    )


def anchored_pairs(anchor: Anchor, candidates: Candidates) -> list[Pair]:
    """The anchor with each of the two generated videos; no ranker is asked.

    Raises ValueError if they are of different conditions, or their latents differ in shape.
    """
    if anchor.condition_id != candidates.condition.id:
        raise ValueError(f"anchor {anchor.id} is of condition {anchor.condition_id}, not of {candidates.condition.id}")
    return [
        _anchored_pair(anchor, generated, seed, candidates.policy_version)
        for seed, generated in zip(candidates.seeds, _sides(candidates), strict=True)
    ]


def _sides(candidates: Candidates) -> list[tuple[str, TensorData]]:
    """Id and latents of the videos A and B."""
    latents = (candidates.latents_a, candidates.latents_b)
    return [(f"{candidates.condition.id}-{seed}", side) for seed, side in zip(candidates.seeds, latents, strict=True)]


def _anchored_pair(anchor: Anchor, generated: tuple[str, TensorData], seed: int, policy_version: int) -> Pair:
    _, latents = generated
    if latents.shape != anchor.latents.shape:
        raise ValueError(
            f"anchor {anchor.id} has latents of shape {anchor.latents.shape}, the policy makes {latents.shape}: ingest "
            "it at the size and length that is sampled"
        )
    sides = [(anchor.video_id, anchor.latents), generated]
    (chosen_id, chosen), (rejected_id, rejected) = sides if anchor.positive else reversed(sides)
    return Pair(
        id=f"{anchor.id}-{seed}",
        condition_id=anchor.condition_id,
        chosen_id=chosen_id,
        rejected_id=rejected_id,
        chosen=chosen,
        rejected=rejected,
        policy_version=policy_version,
        source="half-online",
    )
