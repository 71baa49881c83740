"""Configs of the judge's own commands, `apogee ranker train` and `apogee ranker score`; as strict as a run's."""

from typing import Annotated, Literal

from pydantic import Field

from configs.sections import AdaptersConfig, Amount, ClusterConfig, Positive, RankerConfig, Section, Share

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class JudgeLoraConfig(Section):
    """The adapter of one domain, on the language model alone: `targets` are the names of linear layers in its blocks.

    The vision tower stays as it is, so that both domains share what it computed of a video.
    """

    rank: Positive = 64
    alpha: Positive = 64
    targets: list[str] = Field(min_length=1, default_factory=lambda: list(PROJECTIONS))


class SlowMotionConfig(Section):
    """`share` of the pairs are mined: a preferred video beside a slowed part of itself, label 3 (paper, C.1).

    The paper has 7k of 64k human-centric and 3k of 18k other pairs.
    """

    share: Share = 0.12
    factors: list[Annotated[float, Field(gt=1.0)]] = Field(min_length=1, default_factory=lambda: [2.0, 3.0, 4.0])


class RankerTrainingConfig(Section):
    """One adapter for each of `domains`, into `out/<domain>`, from the manifest's pairs of that domain.

    `path`: the checkpoint that is fine-tuned; `pairs` : a manifest (`buffers/people/labelled_pairs.py`). `frames` and
    `max_pixels_per_video` must be what the judge is served with. Every pair is shown in both orders:
    `questions_per_microbatch` counts those. `start_from`: a domain's adapter of an earlier training, of the same
    `lora`, that is taught further instead of a new one.
    """

    name: str
    out: str
    seed: Annotated[int, Field(ge=0)] = 0
    path: str
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    pairs: str
    skip_bad_rows: bool = False
    domains: list[Literal["human", "general"]] = Field(min_length=1, default_factory=lambda: ["human", "general"])
    frames: Annotated[int, Field(ge=2)] = 40
    max_pixels_per_video: Positive = 25_165_824
    slow_motion: SlowMotionConfig = SlowMotionConfig()
    lora: JudgeLoraConfig = JudgeLoraConfig()
    start_from: AdaptersConfig = AdaptersConfig()
    steps: Positive = 1000
    pairs_per_step: Positive = 32
    questions_per_microbatch: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 30
    weight_decay: Amount = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    gradient_checkpointing: bool = True
    checkpoint_every: Positive = 100
    num_workers: Positive = 1
    cpus_per_worker: Amount = 1.0
    gpus_per_worker: Amount = 0.0
    cluster: ClusterConfig = ClusterConfig()


class RankerScoringConfig(Section):
    """Held-out pairs (`buffers/people/labelled_pairs.py`) against the judge of `ranker`; a report into `out`.

    `shown_failures`: pairs of which the judge named the wrong video, the surest first, that the report plays.
    """

    name: str
    out: str
    pairs: str
    skip_bad_rows: bool = False
    ranker: RankerConfig
    shown_failures: Annotated[int, Field(ge=0)] = 24
