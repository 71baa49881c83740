"""The stages of a run's curriculum: a union by `kind`. A stage says where its pairs come from and how long it lasts.

A stage may override keys of four sections; `RunConfig.of_stage` puts them in. Every stage starts from the adapter that
the stage before it left, and that adapter, frozen, is the reference of its loss (DESIGN 4).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from configs.sections import Amount, Discounts, MixConfig, Positive, Scale, Section

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
    """`online`: the policy's own videos, judged. `half_online`: they, against people's anchors. `offline`: people's own
    pairs. `distill`: guidance becomes part of the one pass. `distill_aware`: people's own pairs, after that."""


class OfflineStage(_Stage):
    """People's own pairs alone, from the store `buffer.offline`. No video is generated and nothing is judged."""

    kind: Literal["offline"]
    """People's own pairs alone."""


class HalfOnlineStage(_Stage):
    """A labelled anchor of a condition against the policy's own new video (paper, 3.3.2). No judge is asked."""

    kind: Literal["half_online"]
    """Anchors against the policy's own videos."""


class DistillStage(_Stage):
    """Guidance distillation (Eq. 3 and 4): the stages after it make one pass in place of two or three.

    The teacher is the policy that the stage starts from, with the guidance of `sampling`. It is not told to the student
    how strong the guidance was: of a range the student learns the mean (docs/decisions/0005-stages.md).
    """

    kind: Literal["distill"]
    """One pass learns to be the guided prediction."""
    videos: Literal["own", "offline"] = "own"
    """Which videos are noised: the teacher's `own`, or people's `offline` pairs."""
    guidance_scales: Annotated[list[Scale], Field(min_length=2, max_length=2)] | None = None
    """The teacher's scale is drawn from this range for every video. Null: `sampling.guidance_scale`."""
    stg_scales: Annotated[list[Amount], Field(min_length=2, max_length=2)] | None = None
    """Likewise, in place of `sampling.stg_scale`."""


class DistillAwareStage(_Stage):
    """Diffusion-APO from the distilled student, on people's own pairs (paper, 3.3.3).

    With `buffer: {mix: {online: 1, offline: 0}}` on the student's own videos, judged.
    """

    kind: Literal["distill_aware"]
    """People's own pairs, after distillation."""


class DirectAlignStage(_Stage):
    """SRPO on Direct-Align: learns from a differentiable reward (section `reward`) in place of preferences.

    A video is noised with a known noise; one pass of the policy, and the video is recovered and looked at.
    """

    kind: Literal["direct_align"]
    """A reward of decoded frames, through one pass of the policy."""
    videos: Literal["own", "offline"] = "own"
    """Which videos are noised: the policy's `own`, or people's `offline` pairs."""
    recover: Literal["known_noise", "one_step"] = "known_noise"
    """How a video is recovered: by a short jump and the `known_noise`, or by `one_step` to the end (ReFL)."""
    denoising: bool = True
    """The branch that jumps to a cleaner level."""
    inversion: bool = False
    """The branch that jumps to a noisier level, with the control words exchanged. It holds off reward hacking."""
    discounts: Discounts = Field(default=[0.1, 0.25])
    """d of the denoising branch, at the cleanest level and at the noisiest: the positive text counts 1 + d."""
    inversion_discounts: Discounts = Field(default=[0.3, 0.01])
    """Likewise of the inversion branch."""
    pull: Amount = 0.0
    """Weight of the drift in the loss: it pulls the policy to its reference."""
    motion_pull: Amount = 0.0
    """Weight of the motion that was lost: 1 - (motion of recovered frames / that of those the reference recovers)."""


Stage = Annotated[
    OnlineStage | HalfOnlineStage | OfflineStage | DistillStage | DistillAwareStage | DirectAlignStage,
    Field(discriminator="kind"),
]


def own_mix(stage: Stage) -> dict[str, float]:
    """All shares of the mix that a stage has if it says nothing else; none if it has that of the run (`online`)."""
    if stage.kind == "online":
        return {}
    own = isinstance(stage, DistillStage | DirectAlignStage) and stage.videos == "own"
    source = "half_online" if stage.kind == "half_online" else "unjudged" if own else "offline"
    return dict.fromkeys(MixConfig.model_fields, 0.0) | {source: 1.0}


def phases_after(kinds: Sequence[str], *, first: int = 0) -> list[str]:
    """The name of the evaluation after each stage: `stage-1-online`, and `after` after the last.

    kinds: of the stages that are run. first: number of the first of them.
    """
    return [*(f"stage-{number}-{kind}" for number, kind in enumerate(kinds[:-1], start=first + 1)), "after"]
