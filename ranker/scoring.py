"""How good a judge is: accuracy and recall by label and domain, position bias, agreement, calibration. Plain figures.

A pair counts as right by label where the verdict's label is the one that people gave, and as right by video where it
names the better one. What a run would drop (in doubt, no label) is scored all the same, and counted.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from buffers.figures import wilson_interval
from buffers.labels import BY_MOTION, LABELS
from buffers.people.labelled_pairs import LabelledPair
from buffers.records import Verdict

BINS = 10
"""Of the calibration: confidences from 0.5 to 1 in equal steps."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the pairs, the surest first, for accuracy against confidence."""


@dataclass(frozen=True)
class Scored:
    """A labelled pair and what the judge said of it."""

    pair: LabelledPair
    verdict: Verdict

    @property
    def right_video(self) -> bool:
        return self.verdict.a_is_chosen == self.pair.a_is_better

    @property
    def right_label(self) -> bool | None:
        """None where people said only which video is better."""
        return self.verdict.label == self.pair.right[0] if len(self.pair.right) == 1 else None


def score(scored: Sequence[Scored]) -> dict[str, Any]:
    """All figures as plain JSON values; a rate is {"rate", "low", "high", "right", "of"}, None where it is of nothing.

    Raises ValueError where nothing was scored.
    """
    if not scored:
        raise ValueError("no pair was scored")
    orders = 2 * len(scored)
    return {
        "pairs": len(scored),
        "overall": _accuracy(scored),
        "by_domain": {name: _accuracy(part) for name, part in _parts(scored, lambda s: s.pair.domain).items()},
        "by_kind": {
            name: _accuracy(part)
            for name, part in _parts(
                [s for s in scored if s.right_label is not None],
                lambda s: f"{s.pair.domain}, {'motion' if s.pair.right[0] in BY_MOTION else 'distortion'}",
            ).items()
        },
        "by_label": _by_label(scored),
        "by_criterion": {
            name: _accuracy(part) for name, part in _parts(scored, lambda s: s.pair.criterion).items() if name
        },
        "agreement": _rate([s.verdict.agreed for s in scored]),
        "first_shown": _rate_of(sum(s.verdict.first_shown for s in scored), orders),
        "label_mass": {
            "mean": float(np.mean([s.verdict.label_mass for s in scored])),
            "least": float(np.min([s.verdict.label_mass for s in scored])),
        },
        "dropped": dict(Counter(s.verdict.dropped for s in scored if s.verdict.dropped)),
        "kept": _accuracy([s for s in scored if s.verdict.dropped is None]),
        "calibration": calibration([s.verdict.confidence for s in scored], [s.right_video for s in scored]),
        "by_confidence": _by_confidence(scored),
    }


def calibration(confidences: Sequence[float], right: Sequence[bool]) -> dict[str, Any]:
    """Reliability: of each bin of confidence its mean, the share that was right, and how many; and the expected error.

    The error is the mean over the pairs of |share right - mean confidence| of their bin (Naeini et al. 2015).
    """
    sure, correct = np.asarray(confidences, dtype=float), np.asarray(right, dtype=float)
    places = np.clip(((sure - 0.5) * 2 * BINS).astype(int), 0, BINS - 1)
    bins = []
    for place in range(BINS):
        inside = places == place
        if inside.any():
            mean, share = float(sure[inside].mean()), float(correct[inside].mean())
            bins.append({"confidence": mean, "right": share, "pairs": int(inside.sum())})
    error = sum(each["pairs"] * abs(each["right"] - each["confidence"]) for each in bins) / len(sure)
    return {"bins": bins, "expected_error": error}


def failures(scored: Sequence[Scored]) -> list[Scored]:
    """Pairs of which the judge named the wrong video, the surest first: these are worth looking at."""
    return sorted((s for s in scored if not s.right_video), key=lambda s: -s.verdict.confidence)


def _accuracy(scored: Sequence[Scored]) -> dict[str, Any]:
    labels = [s.right_label for s in scored if s.right_label is not None]
    return {"by_label": _rate(labels), "by_video": _rate([s.right_video for s in scored])}


def _by_label(scored: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """Of each label how often it was found where people gave it (recall), and how often it was right where it was said
    (precision), in each domain."""
    labelled = [s for s in scored if s.right_label is not None]
    return {
        f"{domain}/{label}": {
            "recall": _rate([bool(s.right_label) for s in part if s.pair.right == (label,)]),
            "precision": _rate([bool(s.right_label) for s in part if s.verdict.label == label]),
        }
        for domain, part in _parts(labelled, lambda s: s.pair.domain).items()
        for label in LABELS
    }


def _by_confidence(scored: Sequence[Scored]) -> list[dict[str, float]]:
    """Accuracy of the surest share of the pairs, and the least confidence in it."""
    ordered = sorted(scored, key=lambda s: -s.verdict.confidence)
    found = []
    for share in SHARES:
        part = ordered[: max(1, round(share * len(ordered)))]
        right = float(np.mean([s.right_video for s in part]))
        found.append({"share": share, "right": right, "least_confidence": part[-1].verdict.confidence})
    return found


def _parts(scored: Sequence[Scored], key: Callable[[Scored], str]) -> Mapping[str, list[Scored]]:
    parts: dict[str, list[Scored]] = {}
    for each in scored:
        parts.setdefault(key(each), []).append(each)
    return dict(sorted(parts.items()))


def _rate(right: Sequence[bool]) -> dict[str, Any] | None:
    return _rate_of(sum(right), len(right)) if right else None


def _rate_of(successes: int, trials: int) -> dict[str, Any]:
    low, high = wilson_interval(successes, trials)
    return {"rate": successes / trials, "low": low, "high": high, "right": successes, "of": trials}
