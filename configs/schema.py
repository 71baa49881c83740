"""The one typed configuration of a run: a section per role (`sections.py`) and the stages (`stages.py`)."""

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from configs import sections
from configs.contradictions import contradictions
from configs.keys import nearest_key, shown
from configs.paths import PathText
from configs.sections import Section
from configs.stages import OVERRIDABLE, OnlineStage, Stage, own_mix, phases_after

UNGUIDED = {"guidance_scale": 1.0, "guidance_scale_2": None, "negative_prompt": "", "stg_scale": 0.0, "stg_blocks": []}
"""Keys of `sampling` after a distillation: the guidance is inside."""

OWN_TIMESTEPS = {"distill": {"random_shift": False, "random_offset": False}, "direct_align": {"kind": "levels"}}
"""Keys of `learner.timesteps` by the stage's kind: the student of a distillation is taught at the sampler's own
timesteps (paper, 3.1)."""


class RunConfig(Section):
    """A whole run.

    Example: `load_config(Path("configs/miniature.yaml"), ["stages.0.steps=10"])`.
    """

    name: str
    """The run's name in the report and the tracker."""
    out: PathText
    """The run's folder. The same command goes on with a run that was stopped there."""
    seed: sections.Seed = 0
    """Of adapters, noise, orders and draws."""
    tracker: Literal["trackio", "wandb"] = "trackio"
    """Where figures and sample videos can be watched: trackio keeps them in the run's folder. wandb sends them, and
    this config, to Weights & Biases; it has to be installed, and logged in to or `WANDB_MODE=offline`."""
    model: sections.ModelConfig
    """The bundle that is aligned."""
    prompts: sections.PromptsConfig
    """What videos are made of."""
    evaluation: sections.EvaluationConfig
    """What is measured before and after."""
    ranker: sections.RankerConfig = sections.RankerConfig()
    """The role that judges pairs."""
    sampling: sections.SamplingConfig = sections.SamplingConfig()
    """How videos are made."""
    generator: sections.GeneratorConfig = sections.GeneratorConfig()
    """The role that makes videos."""
    buffer: sections.BufferConfig = sections.BufferConfig()
    """Where judged pairs wait."""
    learner: sections.LearnerConfig = sections.LearnerConfig()
    """The role that learns."""
    reward: sections.RewardConfig | None = None
    """What a `direct_align` stage learns from."""
    stages: list[Stage] = Field(min_length=1, default_factory=lambda: [OnlineStage(kind="online")])
    """One after the other; each starts from the adapter that the one before it left."""
    cluster: sections.ClusterConfig = sections.ClusterConfig()
    """The Ray that all of it runs on."""
    start_from: PathText | None = None
    """The adapter that the first stage starts from, in place of the base: a folder, such as `out/adapter` of an earlier
    run, or a .safetensors file with the keys of diffusers, ComfyUI or musubi, of a rank up to `learner.lora.rank`."""
    first_stage: sections.Count = 0
    """Number of the first stage that is run, from 0. One in the middle needs `start_from`."""
    last_stage: sections.Count | None = None
    """Number of the last stage that is run. Null: all that follow."""

    @property
    def numbers(self) -> range:
        """Numbers of the stages that are run."""
        end = len(self.stages) if self.last_stage is None else self.last_stage + 1
        return range(self.first_stage, end)

    def of_stage(self, number: int) -> "RunConfig":
        """The config as the stage sees it: its overrides put in, and `stages` holding it alone.

        A stage that is not online has a mix of its own kind (`stages.own_mix`). After a distillation videos are sampled
        without guidance. Raises ValueError if an override is not a key of its section or has a wrong value.
        """
        stage = self.stages[number]
        changed: dict[str, Any] = {name: getattr(stage, name) for name in OVERRIDABLE}
        changed["buffer"] = _merged({"mix": own_mix(stage)}, changed["buffer"])
        changed["learner"] = _merged({"timesteps": OWN_TIMESTEPS.get(stage.kind, {})}, changed["learner"])
        if self.is_distilled(number):
            changed["sampling"] = UNGUIDED | changed["sampling"]
        merged = {}
        for name in OVERRIDABLE:
            section = getattr(self, name)
            try:
                merged[name] = type(section).model_validate(_merged(section.model_dump(), changed[name]))
            except ValidationError as error:
                found = [_problem(type(section), f"stages.{number}.{name}", dict(e)) for e in error.errors()]
                raise ValueError("\n".join(found)) from None
        return self.model_copy(update={**merged, "stages": [stage], "first_stage": 0, "last_stage": None})

    @property
    def asks_ranker(self) -> bool:
        """Whether a stage has its pairs judged."""
        return any(stage.buffer.mix.online for stage in self.by_stage())

    @property
    def generates(self) -> bool:
        """Whether a stage learns from videos that are generated in it."""
        return any(stage.buffer.mix.generated for stage in self.by_stage())

    @property
    def has_generators(self) -> bool:
        """Whether generators run beside the learner, if only to show videos or for a distillation's negative prompt."""
        return self.generates or self.evaluation.every > 0 or any(stage.kind == "distill" for stage in self.stages)

    def is_distilled(self, number: int) -> bool:
        """Whether the policy that stage `number` starts from makes one pass: a stage before it was a distillation."""
        return any(stage.kind == "distill" for stage in self.stages[:number])

    def sampled_after(self, number: int) -> "RunConfig":
        """The config that the policy which stage `number` leaves is sampled with; `first_stage` - 1: the policy
        before all stages."""
        sampling = self.sampling.model_copy(update=UNGUIDED if self.is_distilled(number + 1) else {})
        return self.model_copy(update={"sampling": sampling})

    def phase_after(self, number: int) -> str:
        """The name of the evaluation after a stage: `stage-1-online`, and `after` after the last that is run."""
        kinds = [self.stages[each].kind for each in self.numbers]
        return phases_after(kinds, first=self.first_stage)[number - self.first_stage]

    def by_stage(self) -> "list[RunConfig]":
        """`of_stage` of every stage that is run."""
        return [self.of_stage(number) for number in self.numbers]

    @model_validator(mode="after")
    def _no_contradictions(self) -> "RunConfig":
        if found := contradictions(self):
            raise ValueError("\n".join(found))
        return self


def _problem(section: type[Section], where: str, error: dict[str, Any]) -> str:
    """One of pydantic's findings about an override of `section` at the key `where`, in our words."""
    message = str(error["msg"]).removeprefix("Input ")
    if error["type"] == "extra_forbidden":
        nearest = nearest_key(section, error["loc"])
        message = f"unknown key; did you mean {where}.{nearest}?" if nearest else f"unknown key of {where}"
    return f"{'.'.join(map(str, (where, *error['loc'])))} = {shown(error['input'])}: {message}"


def _merged(section: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over the section's values, section by section if both hold one."""
    merged = dict(section)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
