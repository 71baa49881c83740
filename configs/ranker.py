"""Configs of the judge's own commands, `apogee ranker train` and `apogee ranker score`; as strict as a run's."""

from typing import Annotated, Literal

from pydantic import Field

from configs import sections
from configs.paths import PathText
from configs.sections import Count, Domain, Names, Pixels, Positive, Section


class JudgeLoraConfig(Section):
    """The adapter of one domain, on the language model alone.

    The vision tower stays as it is, so that both domains share what it computed of a video.
    """

    rank: Positive = 64
    """Of every adapted layer."""
    alpha: Positive = 64
    """The adapter's output is scaled by alpha / rank."""
    targets: Names = Field(default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    """Names of linear layers in the blocks of the language model."""


class SlowMotionConfig(Section):
    """Mined pairs: a part of a preferred video beside a slowed part of it, label 3 (paper, C.1)."""

    share: dict[Domain, sections.Share] = Field(default_factory=lambda: {"human": 0.11, "general": 0.17})
    """Share of a domain's pairs that are mined; none of a domain that is not named. The paper: 7k of 64k human-centric
    pairs, 3k of 18k others."""
    factors: list[Annotated[float, Field(gt=1.0, le=1000)]] = Field(min_length=1, default=[2.0, 3.0, 4.0])
    """How many times slower the rejected video is; one is drawn for each pair."""


class RankerTrainingConfig(sections.Training):
    """One adapter for each of `domains`, from the manifest's pairs of that domain."""

    name: str
    """The training's name in its page."""
    out: PathText
    """Its folder; a domain's adapter is `out/<domain>`. The same command goes on with it."""
    seed: sections.Seed = 0
    """Of adapters, orders and slow motion."""
    path: PathText
    """The checkpoint that is fine-tuned."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen checkpoint."""
    pairs: PathText
    """A manifest of pairs that people compared."""
    skip_bad_rows: bool = False
    """Leave bad rows out instead of refusing the manifest."""
    domains: list[Literal["human", "general"]] = Field(min_length=1, default_factory=lambda: ["human", "general"])
    """Which adapters are trained."""
    frames: Annotated[int, Field(ge=2, le=10**6)] = 40
    """Frames shown of each video: as many as `ranker.frames` of the runs that use the adapter."""
    max_pixels_per_video: Pixels = 25_165_824
    """As in the runs that use the adapter."""
    slow_motion: SlowMotionConfig = SlowMotionConfig()
    """Slow-motion negatives (paper, C.1)."""
    lora: JudgeLoraConfig = JudgeLoraConfig()
    """The adapter of a domain."""
    start_from: sections.AdaptersConfig = sections.AdaptersConfig()
    """A domain's adapter of an earlier training that is taught further."""
    steps: Positive = 1000
    """Optimizer steps per domain."""
    pairs_per_step: Positive = 32
    """Pairs of one step, over all workers; each is shown in both orders."""
    questions_per_microbatch: Positive = 1
    """Questions (a pair in one order) of one forward and backward pass."""
    warmup_steps: Count = 30
    """Steps in which the rate rises from zero."""
    checkpoint_every: Positive = 100
    """Steps between two checkpoints."""
    cluster: sections.ClusterConfig = sections.ClusterConfig()
    """The Ray that it runs on."""


class RankerScoringConfig(Section):
    """Held-out pairs (`buffers/people/labelled_pairs.py`) against a judge; a page into `out`."""

    name: str
    """The scoring's name in its page."""
    out: PathText
    """The folder of its page."""
    pairs: PathText
    """A manifest of held-out pairs."""
    skip_bad_rows: bool = False
    """Leave bad rows out instead of refusing the manifest."""
    ranker: sections.RankerConfig
    """The judge that is scored, as a run has it."""
    shown_failures: Count = 24
    """How many wrongly judged pairs the page plays, the surest first."""
