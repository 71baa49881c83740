"""How two videos become a pair. Half-online stage: an anchor and a generated video (paper, section 3.3).

A positive anchor is chosen over what the policy makes of its condition, a negative one is rejected for it.
"""

from collections.abc import Sequence

from buffers.records import Anchor, Candidates, Pair, TensorData


def anchored_pairs(anchor: Anchor, candidates: Candidates) -> list[Pair]:
    """The anchor against each of the two generated videos; no ranker is asked.

    Raises ValueError if they are of different conditions, or their latents differ in shape.
    """
    if anchor.condition_id != candidates.condition.id:
        raise ValueError(f"anchor {anchor.id} is of condition {anchor.condition_id}, not of {candidates.condition.id}")
    return [
        _anchored_pair(anchor, candidates, seed, latents)
        for seed, latents in zip(candidates.seeds, (candidates.latents_a, candidates.latents_b), strict=True)
    ]


def _anchored_pair(anchor: Anchor, candidates: Candidates, seed: int, latents: TensorData) -> Pair:
    if latents.shape != anchor.latents.shape:
        raise ValueError(
            f"anchor {anchor.id} has latents of shape {anchor.latents.shape}, the policy makes {latents.shape}: ingest "
            "it at the size and length that is sampled"
        )
    sides: Sequence[tuple[str, TensorData]] = (
        (anchor.video_id, anchor.latents),
        (f"{candidates.condition.id}-{seed}", latents),
    )
    (chosen_id, chosen), (rejected_id, rejected) = sides if anchor.positive else tuple(reversed(sides))
    return Pair(
        id=f"{anchor.id}-{seed}",
        condition_id=anchor.condition_id,
        chosen_id=chosen_id,
        rejected_id=rejected_id,
        chosen=chosen,
        rejected=rejected,
        policy_version=candidates.policy_version,
        source="half-online",
    )
