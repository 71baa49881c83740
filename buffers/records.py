"""Everything that crosses a process: small frozen records, stamped with the policy version that made them.

This is the public interface of the project. numpy only: no torch, no ray, no vllm is imported here
(`buffers/tensors.py` turns `TensorData` into torch tensors and back).

    Condition --generator--> Candidates + CandidateVideos --ranker--> Verdict --buffer--> Pair --learner--> Snapshot
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np

from buffers import labels
from configs.sections import Domain as Domain

Source = Literal["online", "half-online", "offline", "unjudged"]
"""Where a pair comes from (paper, section 3.3). `unjudged`: two videos of the policy of which neither is preferred.
Only guidance distillation and Direct-Align learn from such."""

AGELESS: tuple[Source, ...] = ("offline", "unjudged")
"""A policy that has learned since does not make them worse. In a stage of distillation the teacher generates; in
Direct-Align a video is a starting point like any other, people's videos too, and a full buffer holds few."""


@dataclass(frozen=True)
class TensorData:
    """A tensor as plain bytes, so that bf16 (which numpy and Arrow lack) is stored as it is.

    `data` holds the raw little-endian bytes as a flat uint8 array; `dtype` is torch's name without `torch.`.

    Example: TensorData("bfloat16", (16, 3, 8, 8), <uint8 array of 6144>)
    """

    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes)


@dataclass(frozen=True)
class Condition:
    """What a video is made from. Made by the prompt stream; read by the generator.

    `domain` is None if the prompt file does not say. `picture`: the file with the first frame of its videos, or the
    store that holds it; None if they begin with none. `size`: height and width of its videos in pixels; None if all
    have those of `sampling`.

    Example: Condition("c1f0", "a red circle moving left", "general")
    """

    id: str
    prompt: str
    domain: Domain | None = None
    picture: str | None = None
    size: tuple[int, int] | None = None


def condition_id(prompt: str, domain: Domain | None, first_frame: str = "") -> str:
    """The same for the same condition in every file and run; `first_frame`: the fingerprint of its picture, if any."""
    return hashlib.sha256("\t".join([domain or "", prompt, *filter(None, [first_frame])]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class EncodedCondition:
    """A condition as it is stored, once however many pairs it has.

    `first_frame`: the picture that its videos begin with, if there is one: uint8 `[height, width, 3]`. The others are
    a row of `policy.conditioning.Conditioning`.
    """

    condition: Condition
    prompt_embeds: TensorData
    first_frame: TensorData | None = None
    frame_latents: TensorData | None = None
    frame_embeds: TensorData | None = None

    @property
    def condition_id(self) -> str:
        return self.condition.id


@dataclass(frozen=True)
class Slot:
    """Leave to make one request: of which source its pairs will be, and its number, from 0, in the source's stream."""

    source: Source
    number: int


@dataclass(frozen=True)
class Request:
    """One unit of work for a generator: a batch of conditions, two noise seeds for each (evaluation: any number).

    `slot`: its place in a stream of its stage, or None (evaluation). `anchors`: ids, one for each condition, if its
    pairs are half-online ones.

    Example: Request((condition,), ((11, 12),), Slot("online", 0))
    """

    conditions: tuple[Condition, ...]
    seeds: tuple[tuple[int, ...], ...]
    slot: Slot | None = None
    anchors: tuple[str, ...] = ()

    @property
    def is_seen(self) -> bool:
        """Whether a judge looks at the videos. Otherwise they are not decoded."""
        return self.slot is None or self.slot.source == "online"


@dataclass(frozen=True)
class Candidates:
    """Two latents of one condition before anybody has judged them. Made by the generator; read by the buffer.

    `latents_a`, `latents_b`: normalised VAE latents `[channels, latent_frames, latent_height, latent_width]`.
    """

    condition: Condition
    conditioning: EncodedCondition
    seeds: tuple[int, int]
    latents_a: TensorData
    latents_b: TensorData
    policy_version: int


@dataclass(frozen=True)
class CandidateVideos:
    """The same two candidates as pixels. Made by the generator; read by the ranker, then dropped.

    `video_a`, `video_b`: uint8 `[frames, height, width, 3]`; `fps`: frames per second.
    """

    condition: Condition
    video_a: np.ndarray
    video_b: np.ndarray
    fps: float
    policy_version: int


@dataclass(frozen=True)
class ShownVideos:
    """Videos of one condition that nobody learns from. Made by the generator; measured, compared and kept.

    `videos`: uint8 `[frames, height, width, 3]` each, one for each noise seed. `seconds`: how long each took to make.
    """

    condition: Condition
    videos: tuple[np.ndarray, ...]
    fps: float
    policy_version: int
    seconds: float


class Preference(Protocol):
    """What loop and buffer need of a judge's answer about two videos, A and B.

    a_is_chosen: which of the two is the better one. confidence: how sure the judge is, in [0, 1]. dropped: why the pair
    must not be learned from, or None. counts: what is counted of the answer, keys of `buffers.labels.TALLY`. What else
    an answer holds is the judge's evidence: `Verdict` or `Scores`.
    """

    @property
    def a_is_chosen(self) -> bool: ...

    @property
    def confidence(self) -> float: ...

    @property
    def dropped(self) -> labels.DropReason | None: ...

    def counts(self) -> Counter[str]: ...


@dataclass(frozen=True)
class Scores:
    """A function's answer about two videos, A and B: a number for each, larger is better.

    Example: Scores(0.31, 0.84).a_is_chosen is False
    """

    a: float
    b: float
    dropped: labels.DropReason | None = None

    @property
    def a_is_chosen(self) -> bool:
        return self.a > self.b

    @property
    def confidence(self) -> float:
        """1: a score does not say how sure it is."""
        return 1.0

    def counts(self) -> Counter[str]:
        """It has no label and no order: it counts as judged, as scored, and by its drop reason."""
        return Counter(["judged", "scored", *([f"dropped_{self.dropped}"] if self.dropped else [])])


@dataclass(frozen=True)
class Verdict:
    """A judge's answer about two videos in the order (A, B), as one of four labels (`buffers/labels.py`).

    `probabilities`: of the labels 1 to 4, normalised over the four, averaged over both orders (the swapped order mapped
    back). `label_mass`: the smaller of the two orders' sums of full-vocabulary probability on the four labels. What is
    missing from 1 went to tokens that are not a label.
    `agreed`: both orders named the same video. `first_shown`: how many of the two orders (0, 1, 2) chose the video
    shown first; an unbiased judge gives 1 whenever it agrees with itself.
    `dropped`: why the pair must not be learned from, or None.

    Example: Verdict(1, (0.9, 0.04, 0.05, 0.01), 0.99, True, 1, None, "general", "1", "tiny@3fa2")
    """

    label: int
    probabilities: labels.Four
    label_mass: float
    agreed: bool
    first_shown: int
    dropped: labels.DropReason | None
    domain: Domain
    rubric_version: str
    ranker_version: str

    @property
    def a_is_chosen(self) -> bool:
        return labels.choice_of(self.label) == "a"

    @property
    def confidence(self) -> float:
        """Probability that the chosen video is the better one, by either of its two labels; in [0, 1]."""
        p1, p2, p3, p4 = self.probabilities
        return p1 + p3 if self.a_is_chosen else p2 + p4

    @property
    def decided_by(self) -> labels.DecidedBy:
        """What the label compares."""
        return "motion" if self.label in labels.BY_MOTION else "distortion"

    def swapped(self) -> "Verdict":
        """The same verdict about the same videos in the order (B, A)."""
        probabilities = labels.swapped_probabilities(self.probabilities)
        return replace(self, label=labels.swapped(self.label), probabilities=probabilities)

    def counts(self) -> Counter[str]:
        """Its label, agreement, what it tells of a position bias, and drop reason or what decided it. If nobody judged
        it, the drop reason alone."""
        if self.dropped in labels.NOT_JUDGED:
            return Counter([f"dropped_{self.dropped}"])
        counts = Counter(judged=1, agreed=int(self.agreed))
        if self.label in labels.LABELS:
            counts[f"label_{self.label}"] += 1
            place = f"{self.domain}_{self.label}"
            counts[labels.DISAGREED.format(place)] += not self.agreed
            counts[labels.FIRST.format(place)] += not self.agreed and self.first_shown == 2
        counts[f"dropped_{self.dropped}" if self.dropped else f"kept_{self.decided_by}"] += 1
        return counts


@dataclass(frozen=True)
class Pair:
    """What the learner learns from, made by the buffer. `policy_version`: of the generator, 0 for people's videos.

    `chosen`, `rejected`: normalised latents `[channels, latent_frames, latent_height, latent_width]`. Their ids name
    them among all latents of a store, which keeps each once: `{condition}-{noise seed}` of a generated video.
    """

    id: str
    condition_id: str
    chosen_id: str
    rejected_id: str
    chosen: TensorData
    rejected: TensorData
    policy_version: int
    source: Source
    verdict: Verdict | None = None
    scores: Scores | None = None

    @property
    def ages(self) -> bool:
        """Whether a policy that has learned since makes it worse."""
        return self.source not in AGELESS

    @property
    def bytes(self) -> int:
        """Size of the latents of both videos."""
        return self.chosen.nbytes + self.rejected.nbytes


@dataclass(frozen=True)
class Judged:
    """Which of two videos is the better one, and what was said of them.

    `verdict`: about the videos of `in_order`. `scores`: a function's; the chosen video has the larger one.
    """

    chosen_id: str
    rejected_id: str
    verdict: Verdict | None
    scores: Scores | None = None

    @property
    def in_order(self) -> tuple[str, str]:
        """Ids of the videos A and B that the verdict is about; the chosen one first if there is no verdict."""
        a_is_chosen = self.verdict is None or self.verdict.a_is_chosen
        return (self.chosen_id, self.rejected_id) if a_is_chosen else (self.rejected_id, self.chosen_id)

    def corrected(self, verdict: Verdict) -> "Judged":
        """With another verdict about the same A and B."""
        a, b = self.in_order
        return Judged(a, b, verdict) if verdict.a_is_chosen else Judged(b, a, verdict)


@dataclass(frozen=True)
class Anchor:
    """A video that people judged by itself: good or bad for its condition. Half-online stage; paper, section 3.3.

    `video_id` names its latents among all of a store, as `Pair.chosen_id` does: the same video may be good for one
    condition and bad for another. `latents`: normalised, `[channels, latent_frames, latent_height, latent_width]`.
    """

    id: str
    condition_id: str
    video_id: str
    positive: bool
    latents: TensorData


@dataclass(frozen=True)
class Batch:
    """The pairs of one optimizer step (or one rank's share of them) with the conditionings they need.

    `staleness`: for each pair, how many policy versions it was behind when it was taken. `shapes`: of the latents of
    each pair of the whole step, in its order, so that every rank knows how the others' shares are made up; empty if
    the share is all there is.
    """

    step: int
    pairs: tuple[Pair, ...]
    conditionings: dict[str, EncodedCondition]
    staleness: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """The policy's adapter at one version: published whole or not at all.

    `adapter`: parameter name, which begins with the expert's (`transformer`, `transformer_2`), -> `TensorData`.
    `checksum`: sha256 over names, dtypes, shapes and bytes, in sorted order (`buffers.tensors.checksum`).

    Example: Snapshot(3, {"transformer.blocks.0.attn1.to_q.lora_A.weight": ...}, "9f2c...")
    """

    version: int
    adapter: dict[str, TensorData]
    checksum: str


@dataclass(frozen=True)
class Receipt:
    """A generator's answer to new weights; the sender compares it and stops the run if it differs.

    `parameters`: how many LoRA parameters were really overwritten.
    """

    version: int
    parameters: int
    checksum: str


@dataclass(frozen=True)
class RoleTimes:
    """Seconds a role has spent working and waiting since it started."""

    busy_s: float = 0.0
    waiting_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
