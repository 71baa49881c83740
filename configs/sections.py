"""The sections of a config, one per role. Defaults are the paper's if the paper gives a value; unknown keys are errors.

Imports nothing heavy (no torch, no ray): `apogee check` must answer at once. Paths are relative to the working
directory of the process (a submitted job's working directory), not to the YAML file.
If the paper is silent, the choice is in `docs/decisions/`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Domain = Literal["human", "general"]
"""Which rubric judges a video: `human` (human-centric) or `general` (non-human-centric). Paper, appendix C."""

Positive = Annotated[int, Field(gt=0)]
Amount = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Doubtful = Literal["drop", "keep"]
TimestepKind = Literal["apo", "uniform", "logit_normal"]


class Section(BaseModel):
    """Strict and frozen: an unknown key or a wrong type is an error, and nobody changes a config in passing."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The bundle to align: an ordinary diffusers Wan pipeline folder. Flow shift and expert boundary are its own."""

    path: str
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    max_text_tokens: Positive = 512


class SamplingConfig(Section):
    """How videos are made, as the user would at inference. The loss never sees guidance (DESIGN 4)."""

    steps: Positive = 40
    guidance_scale: Annotated[float, Field(ge=1.0)] = 5.0
    negative_prompt: str = ""
    num_frames: Positive = 121
    height: Positive = 720
    width: Positive = 960
    fps: Annotated[float, Field(gt=0)] = 24.0


class PromptsConfig(Section):
    """Prompt files, one prompt a line or `domain<TAB>prompt`; or a store of people's own prompts."""

    train: str
    max_characters: Positive = 2000


class LoraConfig(Section):
    """The adapter on every expert. `targets` are the ends of module names inside a transformer block."""

    rank: Positive = 32
    alpha: Positive = 32
    targets: Annotated[list[str], Field(min_length=1)] = [
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "ffn.net.0.proj",
        "ffn.net.2",
    ]


class TimestepsConfig(Section):
    """Diffusion-APO's timesteps (paper 3.2, Eq. 5).

    `kind: uniform` is standard Diffusion-DPO, one timestep a pair and step; `logit_normal` likewise, with logit(t / T)
    normal of mean `logit_mean` and deviation `logit_deviation`. Every key that is not named here belongs to `apo`.
    `window: isolated` is one anchor a step, drawn uniformly from the whole grid (paper, appendix E); `sliding` is
    `high` anchors at or above the share `high_from` of T, `stride` further each step, and `low` below it.
    """

    kind: TimestepKind = "apo"
    logit_mean: float = 0.0
    logit_deviation: Annotated[float, Field(gt=0)] = 1.0
    window: Literal["sliding", "isolated"] = "sliding"
    random_shift: bool = True
    shifts: list[Annotated[float, Field(gt=0)]] = [3.0, 4.0, 5.0, 6.0]
    random_offset: bool = True
    offset_variance: Amount = 5.0
    snap: Literal["timestep", "grid"] = "timestep"
    high: Annotated[int, Field(ge=0)] = 4
    low: Annotated[int, Field(ge=0)] = 1
    high_from: Share = 0.8
    stride: Positive = 4
    reduce: Literal["sum", "mean"] = "sum"

    @property
    def count(self) -> int:
        """K: how many timesteps an optimizer step is taken at."""
        return self.high + self.low if self.kind == "apo" and self.window == "sliding" else 1


class LearnerConfig(Section):
    """One optimizer step learns from `pairs_per_step` pairs in all, split evenly over the workers.

    Every `publish_every` steps the weights go to the generators as a new policy version.
    """

    beta: Annotated[float, Field(gt=0)] = 2000.0
    """How strongly the loss holds the policy to its reference. The paper gives none; peers use 100 to 5000."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Amount = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    pairs_per_step: Positive = 16
    microbatch_pairs: Positive = 1
    gradient_checkpointing: bool = True
    lora: LoraConfig = LoraConfig()
    timesteps: TimestepsConfig = TimestepsConfig()
    num_workers: Positive = 1
    cpus_per_worker: Amount = 1.0
    gpus_per_worker: Amount = 0.0
    publish_every: Positive = 1
    checkpoint_every: Positive = 50
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """The state of the run is also saved if so many minutes have passed since the last time."""


class GeneratorConfig(Section):
    """A request is `conditions_per_request` conditions, two videos each, sampled as one batch.

    `requests_in_flight` per actor: one being generated, the others being judged and stored.
    """

    num_actors: Positive = 1
    cpus_per_actor: Amount = 1.0
    gpus_per_actor: Amount = 0.0
    conditions_per_request: Positive = 1
    requests_in_flight: Positive = 2


class AdaptersConfig(Section):
    """A folder for each domain, or null."""

    human: str | None = None
    general: str | None = None


class RankerConfig(Section):
    """The judge, a Qwen3-VL folder. `frames` are shown of each video (paper, appendix C: 40).

    `adapters`: for each domain a LoRA adapter folder, as `apogee ranker train` writes them; one engine serves all of
    them, and a domain without one is judged by the checkpoint itself.

    A verdict is in doubt where the two orders name different videos, where the chosen one is the better one with a
    probability below `min_confidence`, or where the four labels hold less than `min_label_mass` of the model's
    probability. What `disagreement`, `low_confidence` and `low_label_mass` say is done with it: dropped, or kept with
    the probabilities' mean; it is counted either way. An answer that is none of the four is always dropped.
    """

    kind: Literal["qwen_vl", "function"] = "qwen_vl"
    """The judge: a Qwen3-VL checkpoint (`path`), or a function of your own (`function`)."""
    path: str = ""
    """The folder of the Qwen3-VL checkpoint. `kind: function` does not read it."""
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    """`module:function`, called with (frames uint8 [frames, height, width, 3], prompt). It returns a number, larger is
    better: of two videos the one with the larger number is preferred. It runs in the ranker's actor."""
    adapters: AdaptersConfig = AdaptersConfig()
    num_actors: Positive = 1
    cpus_per_actor: Amount = 1.0
    gpus_per_actor: Amount = 0.0
    frames: Positive = 40
    max_pixels_per_video: Positive = 25_165_824
    max_model_len: Positive = 32_768
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    min_confidence: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.6
    min_label_mass: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    both_orders: bool = True
    disagreement: Doubtful = "drop"
    low_confidence: Doubtful = "drop"
    low_label_mass: Doubtful = "drop"


class MixConfig(Section):
    """Which share of all batches is of pairs that the policy made, of those with an anchor, and of people's own."""

    online: Share = 1.0
    half_online: Share = 0.0
    offline: Share = 0.0


class BufferConfig(Section):
    """`capacity`, `capacity_gb`: generated pairs waiting to be learned from, and 10^9 bytes of their latents on disk.

    `when_full`: whether new pairs `wait` for room (that is the pace of a run) or the `drop_oldest` ones make it.
    `offline`: a store of people's own pairs, as `apogee data ingest` makes it: a folder or a URI.

    `max_uses`: in how many steps a pair is learned from. `max_staleness`: how many policy versions it may be behind
    when it is; 0 is strictly on-policy. `motion_share`: of the pairs kept, at most this share may have been decided by
    motion (labels 3 and 4). A policy that makes few distorted videos makes mostly such pairs, and they would drown
    the first criterion: faster subjects are distorted more often (docs/LOG.md). 1 keeps them all, as the paper does.
    """

    capacity: Positive = 32
    capacity_gb: Annotated[float, Field(gt=0)] = 1000.0
    when_full: Literal["wait", "drop_oldest"] = "wait"
    mix: MixConfig = MixConfig()
    offline: str | None = None
    max_uses: Positive = 1
    max_staleness: Annotated[int, Field(ge=0)] = 1
    motion_share: Share = 1.0


class EvaluationConfig(Section):
    """Held-out prompts, the same seeds before and after; `videos` are made each time, two per condition.

    `meter` is `module:function`, called with (frames, prompt) and answering a `Measurement`; without one the videos
    are made and shown, and nothing is measured.
    """

    prompts: str
    videos: Positive = 256
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 90_000
    meter: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    shown_videos: Annotated[int, Field(ge=0)] = 12


class ClusterConfig(Section):
    """`address: local` starts Ray here; `auto` joins the cluster the job was submitted to.

    `max_failures`: dead actors that are replaced before the run gives up and shows the first error.
    """

    address: Literal["local", "auto"] = "local"
    num_cpus: Positive | None = None
    dashboard: bool = False
    max_failures: Annotated[int, Field(ge=0)] = 3
