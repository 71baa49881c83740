"""How good a judge is: accuracy and recall by label and domain, position bias, agreement, calibration. Plain figures.

A pair is right by label if the verdict's label is the one that people gave. It is right by video if the verdict names
the better video. What a run would drop (in doubt, no label) is scored all the same, and counted.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from buffers.figures import Figure, figure, position_bias
from buffers.labels import BY_MOTION, LABELS
from buffers.people.labelled_pairs import LabelledPair
from buffers.records import Verdict

BINS = 10
"""Of the calibration: confidences from 0.5 to 1 in equal steps."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the pairs, the surest first, for accuracy against confidence."""


@dataclass(frozen=True)
class Scored:
    """A labelled pair and the judge's verdict about it."""

    pair: LabelledPair
    verdict: Verdict

    @property
    def right_video(self) -> bool:
        return self.verdict.a_is_chosen == self.pair.a_is_better

    @property
    def right_label(self) -> bool | None:
        """None if people said only which video is better."""
        return self.verdict.label == self.pair.right[0] if len(self.pair.right) == 1 else None


def score(scored: Sequence[Scored], left_out: Sequence[str] = ()) -> dict[str, Any]:
    """All figures as plain JSON values. A rate is a `buffers.figures.Figure`, or None if it would be of no pair.

    left_out: why other pairs were not scored; they are in no figure.

    Raises ValueError if nothing was scored.
    """
    if not scored:
        raise ValueError("no pair was scored")
    masses = [s.verdict.label_mass for s in scored]
    return {
        "pairs": len(scored),
        "left_out": list(left_out),
        "overall": _accuracy(scored),
        "by_domain": _accuracies(scored, lambda s: s.pair.domain),
        "by_kind": _accuracies(scored, _kind),
        "by_label": _by_label(scored),
        "by_criterion": _accuracies(scored, lambda s: s.pair.criterion),
        "agreement": _rate(scored, lambda s: s.verdict.agreed),
        "position_bias": position_bias(sum((s.verdict.counts() for s in scored), Counter())),
        "label_mass": {"mean": fmean(masses), "least": min(masses)},
        "dropped": dict(Counter(s.verdict.dropped for s in scored if s.verdict.dropped)),
        "kept": _accuracy([s for s in scored if s.verdict.dropped is None]),
        "calibration": calibration([s.verdict.confidence for s in scored], [s.right_video for s in scored]),
        "by_confidence": _by_confidence(scored),
    }


def calibration(confidences: Sequence[float], right: Sequence[bool]) -> dict[str, Any]:
    """Reliability: per bin of confidence its mean, the share that was right, and the pairs; and the expected error.

    The error is the mean over the pairs of |share right - mean confidence| of their bin (Naeini et al. 2015).
    """
    by_bin: dict[int, list[tuple[float, bool]]] = {}
    for sure, correct in zip(confidences, right, strict=True):
        by_bin.setdefault(min(max(int((sure - 0.5) * 2 * BINS), 0), BINS - 1), []).append((sure, correct))
    bins = []
    for _, answers in sorted(by_bin.items()):
        confidence, share = (fmean(values) for values in zip(*answers, strict=True))
        bins.append({"confidence": confidence, "right": share, "pairs": len(answers)})
    error = sum(each["pairs"] * abs(each["right"] - each["confidence"]) for each in bins) / len(confidences)
    return {"bins": bins, "expected_error": error}


def failures(scored: Sequence[Scored]) -> list[Scored]:
    """Pairs for which the judge named the wrong video, the surest first: these are worth looking at."""
    return [s for s in _surest_first(scored) if not s.right_video]


def _accuracy(scored: Sequence[Scored]) -> dict[str, Figure | None]:
    return {"by_label": _rate(scored, lambda s: s.right_label), "by_video": _rate(scored, lambda s: s.right_video)}


def _accuracies(scored: Sequence[Scored], key: Callable[[Scored], str]) -> dict[str, Any]:
    return {name: _accuracy(part) for name, part in _parts(scored, key).items()}


def _kind(scored: Scored) -> str:
    if scored.right_label is None:
        return ""
    return f"{scored.pair.domain}, {'motion' if scored.pair.right[0] in BY_MOTION else 'distortion'}"


def _by_label(scored: Sequence[Scored]) -> dict[str, dict[str, Figure | None]]:
    """For each domain and label: recall (how often a label that people gave was found), and precision (how often a
    label that the judge gave was right)."""
    labelled = [s for s in scored if s.right_label is not None]
    return {
        f"{domain}/{label}": {
            "recall": _rate([s for s in part if s.pair.right == (label,)], lambda s: s.right_label),
            "precision": _rate([s for s in part if s.verdict.label == label], lambda s: s.right_label),
        }
        for domain, part in _parts(labelled, lambda s: s.pair.domain).items()
        for label in LABELS
    }


def _by_confidence(scored: Sequence[Scored]) -> list[dict[str, float]]:
    """Accuracy of the surest share of the pairs, and the least confidence in it."""
    ordered = _surest_first(scored)
    parts = {share: ordered[: max(1, round(share * len(ordered)))] for share in SHARES}
    return [
        {"share": share, "right": fmean(s.right_video for s in part), "least_confidence": part[-1].verdict.confidence}
        for share, part in parts.items()
    ]


def _surest_first(scored: Sequence[Scored]) -> list[Scored]:
    return sorted(scored, key=lambda s: -s.verdict.confidence)


def _parts(scored: Sequence[Scored], key: Callable[[Scored], str]) -> Mapping[str, list[Scored]]:
    """The pairs by `key`, in its order. A pair whose key is empty is in no part."""
    parts: dict[str, list[Scored]] = {}
    for each in scored:
        parts.setdefault(key(each), []).append(each)
    return {name: part for name, part in sorted(parts.items()) if name}


def _rate(scored: Sequence[Scored], right: Callable[[Scored], bool | None]) -> Figure | None:
    """Over the pairs of which it is known; over prompts, if every pair has one. None if there is no such pair."""
    told = [(s.pair.prompt, value) for s in scored if (value := right(s)) is not None]
    if not told:
        return None
    prompts = [prompt for prompt, _ in told]
    return figure([value for _, value in told], prompts=prompts if all(prompts) else None, unit="of pairs")
