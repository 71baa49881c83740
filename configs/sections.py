"""The sections of a config, one per role. Defaults are the paper's if the paper gives a value; unknown keys are errors.

Imports nothing heavy (no torch, no ray): `apogee check` must answer at once. Paths are relative to the working
directory of the process (a submitted job's working directory), not to the YAML file.
If the paper is silent, the choice is in `docs/decisions/`.
"""

from math import log, sqrt
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from configs.paths import PathText

Domain = Literal["human", "general"]
"""Which rubric judges a video: `human` (human-centric) or `general` (non-human-centric). Paper, appendix C."""

# No use of a key comes near these bounds: they tell a slip of the pen, such as 1e39, from a value.
Count = Annotated[int, Field(ge=0, le=10**6)]
Positive = Annotated[int, Field(gt=0, le=10**6)]
Pixels = Annotated[int, Field(gt=0, le=10**10)]
Side = Annotated[int, Field(gt=0, le=16_384)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Amount = Annotated[float, Field(ge=0.0, le=10**4)]
Quantity = Annotated[float, Field(ge=1e-6, le=10**6)]
Scale = Annotated[float, Field(ge=1.0, le=1000)]
Rate = Annotated[float, Field(ge=1e-12, le=1.0)]
Shift = Annotated[float, Field(ge=1e-3, le=1000)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Band = Annotated[list[Quantity], Field(min_length=2, max_length=2)]
"""Where a stage warns, and where it stops."""
Aspect = Annotated[list[Annotated[int, Field(gt=0, le=16_384)]], Field(min_length=2, max_length=2)]
Names = Annotated[list[str], Field(min_length=1)]
Doubtful = Literal["drop", "keep"]
TimestepKind = Literal["apo", "uniform", "logit_normal", "levels"]
Discounts = Annotated[list[Annotated[float, Field(ge=-10.0, le=10.0)]], Field(min_length=2, max_length=2)]
"""At the cleanest level, and at the noisiest."""


class Section(BaseModel):
    """Strict and frozen: an unknown key or a wrong type is an error, and no code can change a config."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Actors(Section):
    """The processes of a role that answers calls."""

    num_actors: Positive = 1
    """Actors of the role. Most GPUs of a run generate."""
    cpus_per_actor: Amount = 1.0
    """CPUs that each asks Ray for."""
    gpus_per_actor: Amount = 0.0
    """GPUs that each asks Ray for: 0, 1, or a share of one that other roles have the rest of."""


class Training(Section):
    """An optimizer, and the processes of the Ray Train group that trains with it."""

    learning_rate: Rate = 1e-4
    """AdamW's, after a warm-up if there is one. The paper: 1e-4."""
    weight_decay: Amount = 0.0
    """AdamW's."""
    max_grad_norm: Annotated[float, Field(ge=1e-9, le=10**9)] = 1.0
    """The gradient of a step is scaled down to this norm."""
    gradient_checkpointing: bool = True
    """Compute activations again in the backward pass: less memory, a quarter more time."""
    num_workers: Positive = 1
    """Processes of the Ray Train group."""
    cpus_per_worker: Amount = 1.0
    """CPUs that each asks Ray for."""
    gpus_per_worker: Amount = 0.0
    """GPUs that each asks Ray for: 0, 1, or a share of one that other roles have the rest of."""


class ModelConfig(Section):
    """The bundle to align: an ordinary diffusers Wan pipeline folder. Flow shift and expert boundary are its own."""

    path: PathText
    """The folder of the bundle, as `pipe.save_pretrained` writes it."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen base. The adapter's masters are float32 whatever this is."""
    idle_expert: Literal["cpu", "device"] = "cpu"
    """Where the base of the expert is that does not work, of two: in pinned CPU memory of its process (28 GB more a
    process at 14B, and seconds for each switch), or on the device as well. Not read if there is one expert."""
    max_text_tokens: Positive = 512
    """Tokens of a prompt; longer prompts are cut. 512 is Wan's own number."""


class SamplingConfig(Section):
    """How videos are made, as the user would at inference. The loss never sees guidance (DESIGN 4)."""

    steps: Annotated[int, Field(gt=0, le=10_000)] = 40
    """Denoising steps of a video. The learner's timesteps lie on the same grid."""
    guidance_scale: Scale = 5.0
    """Classifier-free guidance, diffusers' meaning of the number. 1 makes no unconditional pass."""
    guidance_scale_2: Scale | None = None
    """Likewise for the low-noise expert, if there are two. Null: the same number. Not read if `guidance_scale` is 1."""
    guidance_from: Share = 0.0
    """The unconditional pass is made from this share of the steps on."""
    guidance_to: Share = 1.0
    """It is not made from this share on. The paper and the bundle's own pipeline make it in all steps."""
    guidance_passes: Literal["joined", "separate"] = "joined"
    """Whether the conditional and the unconditional prediction are one pass of twice the videos or two passes. Two need
    less memory. One is faster for small videos."""
    negative_prompt: str = ""
    """The prompt of the unconditional pass."""
    stg_scale: Amount = 0.0
    """Spatiotemporal skip guidance: how much of (conditional prediction - the same with blocks skipped) is added. 0
    makes no such pass."""
    stg_blocks: list[Count] = []
    """The blocks that are skipped, from 0 on. Blocks in the middle of the model are usual."""
    stg_skip: Literal["attention", "block"] = "attention"
    """What is skipped of them: `attention`, every token attends to itself alone; or the whole `block`."""
    stg_from: Share = 0.0
    """The pass that skips blocks is made from this share of the steps on."""
    stg_to: Share = 1.0
    """It is not made from this share on."""
    num_frames: Positive = 121
    """Frames of a video: 1 plus a multiple of the VAE's factor in time."""
    height: Side = 720
    """Pixels: a multiple of the VAE's factor times the patch. Not read if `pixels` is given."""
    width: Side = 960
    """Pixels, as `height`."""
    pixels: Pixels | None = None
    """Pixels of a frame, about. Each condition then has a height and a width of its own: of the aspect of its first
    frame or, without one, of an aspect drawn from `aspects`. Null: all videos are of `height` and `width`."""
    aspects: list[Aspect] = []
    """Pairs of width and height, such as [[16, 9], [3, 4]]. First frames are cut to the nearest of them. Empty: they
    keep their own. Read if `pixels` is given."""
    fps: Annotated[float, Field(ge=0.01, le=1000)] = 24.0
    """Frames per second that the video is shown at."""

    def size_of(self, aspect: float, grid: tuple[int, int]) -> tuple[int, int]:
        """Height and width of about `pixels` pixels, for a picture or a video of this aspect, height / width.

        grid: the pixels that VAE and patches divide each side by. diffusers' rule: sides are rounded down to it. Raises
        ValueError if a side would be 0.
        """
        assert self.pixels is not None, "otherwise there is one size"
        offered = [high / wide for wide, high in self.aspects]
        nearest = min(offered, key=lambda one: abs(log(one / aspect)), default=aspect)
        sides = (round(sqrt(self.pixels * nearest)), round(sqrt(self.pixels / nearest)))
        height, width = (side // step * step for side, step in zip(sides, grid, strict=True))
        if not (height and width):
            raise ValueError(
                f"an aspect of {1 / nearest:.3g} (width / height) is too extreme: of sampling.pixels = {self.pixels} "
                f"one side would be shorter than the {min(grid)} pixels that VAE and patches need"
            )
        return height, width

    def scale_of(self, expert: str) -> float:
        """The guidance scale in the steps of an expert."""
        return self.guidance_scale if expert == "transformer" else self.guidance_scale_2 or self.guidance_scale

    @property
    def guided_steps(self) -> range:
        """The steps, from 0 on, with an unconditional pass. diffusers' rule for ends: `int(share * steps)`."""
        first, end = int(self.guidance_from * self.steps), int(self.guidance_to * self.steps)
        return range(first, end) if self.guidance_scale > 1.0 else range(0)

    @property
    def skipping_steps(self) -> range:
        """The steps with a pass that skips blocks."""
        first, end = int(self.stg_from * self.steps), int(self.stg_to * self.steps)
        return range(first, end) if self.stg_scale > 0.0 else range(0)

    @property
    def passes(self) -> int:
        """Transformer passes of a video: one a step, and one more for each kind of guidance that the step has."""
        return self.steps + len(self.guided_steps) + len(self.skipping_steps)


class PromptsConfig(Section):
    """Prompt files, one prompt a line or `domain<TAB>prompt`; or a store of people's own prompts."""

    train: PathText
    """A text file, or the folder of a store whose conditions are the prompts."""
    max_characters: Positive = 2000
    """A longer prompt is an error that names its line."""


class LoraConfig(Section):
    """The adapter on every expert."""

    rank: Positive = 32
    """Of every adapted layer."""
    alpha: Positive = 32
    """The adapter's output is scaled by alpha / rank."""
    targets: Names = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    """Ends of the names of linear layers inside a transformer block. One that matches no layer is an error."""


class TimestepsConfig(Section):
    """Diffusion-APO's timesteps (paper 3.2, Eq. 5). Only `kind: apo` reads the keys from `window` on."""

    kind: TimestepKind = "apo"
    """`apo`: on the sampler's own grid. `uniform`: standard Diffusion-DPO. `logit_normal`: likewise, by
    `logit_mean`. `levels`: one in each step, as a direct_align stage has it."""
    logit_mean: Annotated[float, Field(ge=-100, le=100)] = 0.0
    """Mean of logit(t / T). `logit_normal` alone reads it."""
    logit_deviation: Annotated[float, Field(ge=1e-6, le=100)] = 1.0
    """Deviation of logit(t / T). `logit_normal` alone reads it."""
    window: Literal["sliding", "isolated"] = "sliding"
    """`sliding`: `high` and `low` timesteps in each step. `isolated`: one, drawn from the whole grid (appendix E)."""
    random_shift: bool = True
    """Draw the flow shift of each window from `shifts` (Eq. 5). Off: the bundle's own shift."""
    shifts: list[Shift] = [3.0, 4.0, 5.0, 6.0]
    """The flow shifts that are drawn from."""
    random_offset: bool = True
    """Move each pair's timestep by a normal offset."""
    offset_variance: Annotated[float, Field(ge=0.0, le=10**6)] = 5.0
    """Of the offset, in squared timesteps. The paper: 5."""
    snap: Literal["timestep", "grid"] = "timestep"
    """Where a moved timestep lands: the nearest integer (`timestep`) or the nearest of the grid (`grid`)."""
    high: Count = 4
    """Timesteps of a window at or above `high_from` of T. The paper: 4."""
    low: Count = 1
    """Timesteps of a window below it. The paper: 1."""
    high_from: Share = 0.8
    """The share of T at which the high part begins. The paper: 0.8."""
    stride: Positive = 4
    """How many places the high part slides on in each step. The paper: 4."""
    levels: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.1, 0.5]
    """From which share of the sampler's steps to which the levels lie. SRPO: 5 to 25 of 50. `levels` alone reads it."""
    jump: Annotated[float, Field(ge=1e-3, le=1.0)] = 0.1
    """How far one pass of the model jumps, as a share of the levels. SRPO: 0.1. `levels` alone reads it."""
    reduce: Literal["sum", "mean"] = "sum"
    """Whether the gradients of a window are summed, as the paper writes, or averaged."""

    @property
    def count(self) -> int:
        """K: how many timesteps an optimizer step is taken at."""
        return self.high + self.low if self.kind == "apo" and self.window == "sliding" else 1


class LearnerConfig(Training):
    """The optimizer, the loss, and the processes that learn."""

    max_drift: Band | None = [0.2, 1.0]
    """Mean squared difference of the policy's and its reference's predictions, over the last 16 steps: a stage warns at
    the first number, and at the second it stops and hands on its best adapter. 0.03 to 0.1 is usual. Null: no limit.
    Not in a distillation, which is to change the predictions."""
    max_accuracy: Band | None = [0.95, 1.0]
    """Likewise of implicit accuracy: if nearly every pair is told right, the policy knows its pairs by heart."""
    max_loss: Band | None = [2.0, 10.0]
    """Likewise of the loss, which is 0.69 at the first step of a stage that learns from preferences."""
    beta: Quantity = 2000.0
    """How strongly the loss holds the policy to its reference. The paper gives none; peers use 100 to 5000."""
    pairs_per_step: Positive = 16
    """Pairs of one optimizer step, over all workers. A multiple of `num_workers`."""
    microbatch_pairs: Positive = 1
    """Pairs of one forward and backward pass of a worker."""
    lora: LoraConfig = LoraConfig()
    """The adapter that is trained."""
    timesteps: TimestepsConfig = TimestepsConfig()
    """At which timesteps the loss is taken."""
    publish_every: Positive = 1
    """Steps after which the weights go to the generators as a new policy version."""
    checkpoint_every: Positive = 50
    """Steps after which the state of the run is saved, while the next step is made."""
    checkpoint_every_minutes: Quantity = 10.0
    """It is also saved if so many minutes have passed since the last time: after every step that takes longer."""


class GeneratorConfig(Actors):
    """The processes that make videos."""

    conditions_per_request: Positive = 1
    """Conditions of one request. Their videos, two each, are sampled as one batch."""
    requests_in_flight: Positive = 2
    """Requests of a generator under way: one is generated, the others are judged and stored."""


class AdaptersConfig(Section):
    """A folder for each domain, or null."""

    human: PathText | None = None
    """For videos of people."""
    general: PathText | None = None
    """For all other videos."""


class RankerConfig(Actors):
    """The judge, and which of the pairs that it has judged are kept.

    An answer that is none of the four labels is always dropped. A policy that makes few distorted videos makes mostly
    pairs that motion decided. Without `motion_share` they would drown the first criterion: faster subjects are
    distorted more often (docs/LOG.md).
    """

    kind: Literal["qwen_vl", "function"] = "qwen_vl"
    """The judge: a Qwen3-VL checkpoint (`path`), or a function of your own (`function`)."""
    path: PathText = ""
    """The folder of the Qwen3-VL checkpoint. `kind: function` does not read it."""
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    """`module:function`, called with (frames uint8 [frames, height, width, 3], prompt). It returns a number, larger is
    better: of two videos the one with the larger number is preferred. It runs in the ranker's actor."""
    adapters: AdaptersConfig = AdaptersConfig()
    """LoRA adapters of the checkpoint, as `apogee ranker train` writes them. A domain without one has the checkpoint
    itself."""
    frames: Positive = 40
    """Frames shown of each video. The paper: 40."""
    max_pixels_per_video: Pixels = 25_165_824
    """Frames of a video are shrunk until all of them together have at most so many pixels."""
    max_model_len: Positive = 32_768
    """Tokens of a question at most. Both videos must fit."""
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """Of the checkpoint. `auto`: its own."""
    min_confidence: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.6
    """Below this probability of the chosen video a pair is in doubt."""
    min_label_mass: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Below this probability of the four labels together a pair is in doubt."""
    both_orders: bool = True
    """Ask about (A, B) and (B, A), and average the probabilities."""
    disagreement: Doubtful = "drop"
    """If the two orders choose different videos: `drop` the pair, or `keep` it with the mean probabilities."""
    low_confidence: Doubtful = "drop"
    """Below `min_confidence`: `drop` or `keep`. The pair is counted either way."""
    low_label_mass: Doubtful = "drop"
    """Below `min_label_mass`: `drop` or `keep`. The pair is counted either way."""
    motion_share: Share = 1.0
    """At most this share of the kept pairs may be decided by motion (labels 3 and 4); the others are dropped. 1, as in
    the paper, keeps all. Of several rankers each keeps its own share. `kind: function` does not read it."""


class RewardConfig(Section):
    """A differentiable reward: how well the frames of a video fit a text, by a CLIP-like model."""

    path: PathText
    """The folder of a CLIP model as transformers has it (PickScore is one), or of CLIP-H with HPS's own .pt file."""
    words: PathText | None = None
    """A YAML file with two lists, `positive` and `negative`: SRPO's control words before the prompt. It is read again
    at every step. Null: the reward is the similarity to the prompt itself."""
    hinge: Annotated[float, Field(ge=-100.0, le=100.0)] = 0.7
    """A reward above this teaches nothing. SRPO: 0.7."""
    latent_frames: Positive = 1
    """How many latent frames are decoded. Each is four frames, and gigabytes at full size."""
    frames: Positive = 2
    """How many of their frames the reward looks at."""


class MixConfig(Section):
    """Which share of all batches comes from which source."""

    online: Share = 1.0
    """Share of the policy's own pairs."""
    half_online: Share = 0.0
    """Share of pairs of an anchor, from `buffer.anchors`, and a video of the policy."""
    offline: Share = 0.0
    """Share of people's own pairs, from `buffer.offline`."""
    unjudged: Share = 0.0
    """Share of pairs of the policy's own videos without a preference. Only a `distill` stage learns from them."""

    @property
    def generated(self) -> dict[str, float]:
        """The shares above 0 whose videos are generated, by key."""
        shares = {"online": self.online, "half_online": self.half_online, "unjudged": self.unjudged}
        return {key: share for key, share in shares.items() if share}


class BufferConfig(Section):
    """The pairs that wait to be learned from."""

    capacity: Positive = 32
    """Generated pairs that may wait to be learned from."""
    capacity_gb: Annotated[float, Field(ge=1e-9, le=10**6)] = 1000.0
    """10^9 bytes of their latents on disk."""
    when_full: Literal["wait", "drop_oldest"] = "wait"
    """New pairs `wait` for room, which is the pace of the run; or `drop_oldest` makes room."""
    mix: MixConfig = MixConfig()
    """From which sources a batch is drawn, exact over time. The shares sum to 1. Every kind of stage has a mix of its
    own; an online stage has this one."""
    keep_doubtful: bool = False
    """Whether pairs that the judge dropped in doubt are stored in `out/doubtful`, for people to look at. `apogee data
    export` writes them without a label. They are never learned from."""
    anchors: PathText | None = None
    """A store with people's anchors, as `apogee data ingest` makes it: videos that are good or bad for their prompt."""
    positive_share: Share = 0.6
    """Share of the anchors that are positive: chosen over the policy's video. The paper: 18k of 30k."""
    without_anchor: Literal["refuse", "skip"] = "refuse"
    """If prompts of `prompts.train` have no anchor: `refuse` the run, or `skip` them in half-online pairs."""
    offline: PathText | None = None
    """A store of people's own pairs, as `apogee data ingest` makes it: a folder or a URI."""
    max_uses: Positive = 1
    """In how many steps a pair is learned from. People's own pairs: in how many steps of a stage."""
    max_staleness: Count = 1
    """How many policy versions a pair may be behind when it is learned from. 0: strictly on-policy."""


class EvaluationConfig(Section):
    """Held-out prompts, with the same seeds before and after."""

    prompts: PathText
    """Held-out prompts: a file or a store, another one than `prompts.train`."""
    videos: Positive = 256
    """Videos made before and after, two per condition."""
    seed: Seed = 90_000
    """The first noise seed; the same before and after."""
    every: Count = 0
    """Inside a stage, `every_videos` of the same videos are made after so many steps. The learner waits for them. 0:
    between stages alone."""
    every_videos: Positive = 32
    """How many videos that are."""
    best: str | None = None
    """The figure by which the best adapter of a stage is kept beside its last one (`adapters/N-KIND-best`): a name of
    the meter's `FIGURES`, or without a meter `net win rate`. A stage that stops early hands that one on."""
    meter: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    """`module:function`, called with (frames uint8 [frames, height, width, 3], prompt). It returns named values: a bool
    becomes a rate, a number a mean, a text is counted. `FIGURES` of its module says of each name which direction is
    better, and its unit. Null: the run's ranker compares each video after training with the one
    before it. If there is no online stage either, only `shown_videos` videos are made."""
    shown_videos: Count = 12
    """Videos of each evaluation that the report plays."""


class ClusterConfig(Section):
    """The Ray that the run is on."""

    address: Literal["local", "auto"] = "local"
    """`local` starts Ray here. `auto` joins the cluster that the job was submitted to."""
    num_cpus: Positive | None = None
    """CPUs that a local Ray has. Null: those of the machine."""
    dashboard: bool = False
    """Start the dashboard of a local Ray, on loopback."""
    max_failures: Count = 5
    """How often within an hour a role may lose an actor, which is replaced, before the run gives up and shows the first
    error. What a dead node takes with it counts once. A request that two generators could not do counts, too."""
    deadline_minutes: Quantity = 240.0
    """A generator or ranker that has not answered a call within so many minutes is replaced."""
    start_minutes: Quantity = 30.0
    """Minutes for the cluster to have room, which an autoscaler may bring, and for all actors to start."""
