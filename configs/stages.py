"""The stages of a run's curriculum: a union by `kind`. A stage says where its pairs come from and how long it lasts.

A stage may override keys of four sections; `RunConfig.of_stage` puts them in. Every stage starts from the adapter that
the stage before it left, and that adapter, frozen, is the reference of its loss (DESIGN 4).
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from configs.sections import Positive, Section

OVERRIDABLE = ("learner", "buffer", "sampling", "generator")
"""Sections that a stage may override."""


class _Stage(Section):
    steps: Positive = 300
    """Optimizer steps of this stage. The paper has 300 for each of its first three stages."""
    learner: dict[str, Any] = Field(default_factory=dict)
    """Keys of the section `learner` that are different in this stage, for example `{learning_rate: 5e-5}`."""
    buffer: dict[str, Any] = Field(default_factory=dict)
    """Keys of the section `buffer` that are different in this stage."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Keys of the section `sampling` that are different in this stage."""
    generator: dict[str, Any] = Field(default_factory=dict)
    """Keys of the section `generator` that are different in this stage."""


class OnlineStage(_Stage):
    """The policy's own videos, judged by the ranker; `buffer.mix` may add people's pairs."""

    kind: Literal["online"]
    """The policy's own videos, judged."""


class OfflineStage(_Stage):
    """People's own pairs alone, from the store `buffer.offline`. No video is generated and nothing is judged."""

    kind: Literal["offline"]
    """People's own pairs alone."""


Stage = Annotated[OnlineStage | OfflineStage, Field(discriminator="kind")]
