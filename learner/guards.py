"""Watches the figures of a stage: a band each for drift, implicit accuracy and loss.

Beta and the learning rate decide more than anything else (docs/results/apo_vs_dpo/findings.md). If they are wrong,
these figures say so long before the videos are measured.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.sections import LearnerConfig

MEAN_OF = 16
"""A figure is the mean over so many steps: of one step it says little."""

ADVICE = {
    "drift": "the policy leaves its reference; lower learner.learning_rate or the stage's steps, or raise learner.beta",
    "implicit_accuracy": "the policy knows its pairs by heart; lower buffer.max_uses or the stage's steps, or give it "
    "more pairs",
    "loss": "the steps are too large for this loss; lower learner.learning_rate or learner.beta",
}
KEYS = {"drift": "max_drift", "implicit_accuracy": "max_accuracy", "loss": "max_loss"}


@dataclass(frozen=True)
class Finding:
    """A figure that has left its band. `stops`: it is at the outer edge. `advice`: what is wrong and what to change."""

    figure: str
    value: float
    stops: bool
    advice: str


class Guards:
    """Of one stage. `figures`: those that its objective has guarded."""

    def __init__(self, config: LearnerConfig, figures: Sequence[str]) -> None:
        bands = {"drift": config.max_drift, "implicit_accuracy": config.max_accuracy, "loss": config.max_loss}
        self._bands = {figure: band for figure, band in bands.items() if band and figure in figures}
        self._seen: deque[Mapping[str, Any]] = deque(maxlen=MEAN_OF)
        self._warned: set[str] = set()

    def see(self, measured: Mapping[str, Any]) -> list[Finding]:
        """What is to be said after a step, `measured` as `Learner.step` gives it: each warning once, each stop."""
        self._seen.append(measured)
        if len(self._seen) < MEAN_OF:
            return []
        found = []
        for figure, (warns, stops) in self._bands.items():
            value = sum(step[figure] for step in self._seen) / MEAN_OF
            if value >= stops or (value >= warns and figure not in self._warned):
                self._warned.add(figure)
                edge = stops if value >= stops else warns
                limit = f"learner.{KEYS[figure]} = {[warns, stops]}"
                why = f"{figure} = {value:.3g}, {edge:g} or more ({limit}): {ADVICE[figure]}"
                found.append(Finding(figure, value, value >= stops, why))
        return found
