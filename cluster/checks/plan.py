"""What a config will do, from arithmetic alone: nothing is loaded or started.

`apogee check` prints it (`commands/check.py`). The estimates are counts (videos, transformer passes, tokens, bytes),
never seconds: those depend on the machine.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, prod

from buffers.records import AGELESS, Condition
from buffers.replay import PAIRS_OF_A_CONDITION, made_shares
from cluster.checks.resources import Need, needs
from cluster.evaluation import videos_made
from configs.schema import RunConfig
from configs.sections import SamplingConfig
from policy.bundle import WAN, BundleFacts

LEARNING_PASSES = 4
"""Forward passes' worth of learning from one latent at one timestep: policy 1, reference 1, backward 2."""


@dataclass(frozen=True)
class Plan:
    """The figures of a run, over all stages.

    sizes: heights and widths of the videos, the largest first. latent_shape: `[channels, frames, height, width]`.
    latent_bytes, pixel_bytes: of the largest video. embedding_bytes: of one condition. roles: of the first stage.
    passes: transformer passes of one optimizer step per process of a role, or as much work; a backward pass counts as
    two.
    """

    config: RunConfig
    sizes: tuple[tuple[int, int], ...]
    latent_shape: tuple[int, int, int, int]
    tokens: int
    latent_bytes: int
    embedding_bytes: int
    pixel_bytes: int
    training_videos: int
    generation_passes: int
    learning_passes: int
    evaluation_passes: int
    rankings: int
    roles: tuple[Need, ...]
    passes: dict[str, float]
    notes: tuple[str, ...]


def sizes_of(
    sampling: SamplingConfig, conditions: Iterable[Condition] = (), *, grid: tuple[int, int] = WAN.grid
) -> list[tuple[int, int]]:
    """Heights and widths of the videos, the one with the most pixels first. Of an area without prompts: a square."""
    if sampling.pixels is None:
        return [(sampling.height, sampling.width)]
    found = {each.size for each in conditions if each.size} or {sampling.size_of(1.0, grid)}
    return sorted(found, key=prod, reverse=True)


def plan(
    config: RunConfig, facts: BundleFacts = WAN, *, conditions: Iterable[Condition] = (), notes: Iterable[str] = ()
) -> Plan:
    """Work out the plan. Without facts of the bundle, those of Wan2.1 are assumed. The largest videos decide.

    notes: what else is to be said. Raises ValueError if the bundle cannot make videos of that size.
    """
    sampling, first = config.sampling, config.of_stage(config.first_stage)
    sizes = sizes_of(sampling, conditions, grid=facts.grid)
    height, width = sizes[0]
    shape = facts.latent_shape(sampling.num_frames, height, width)
    number_bytes = 2 if config.model.dtype == "bfloat16" else 4
    framed = (facts.in_channels - facts.channels) * prod(shape[1:])  # what a condition has of its first frame
    said = [*notes]
    videos = generation = learning = rankings = 0
    for stage in config.by_stage():
        learned = stage.stages[0].steps * stage.learner.pairs_per_step
        learning += learned * _passes_of_learning_a_pair(stage)
        for source, share in made_shares(stage.buffer.mix).items():
            of_source = ceil(learned * share / stage.buffer.max_uses / PAIRS_OF_A_CONDITION[source])
            videos += 2 * of_source
            generation += 2 * of_source * stage.sampling.passes
            rankings += of_source * (2 if config.ranker.both_orders else 1) if source == "online" else 0
        said += [*_freshness(stage), *_balance(stage), *_idle(stage)]
    return Plan(
        config=config,
        sizes=tuple(sizes),
        latent_shape=shape,
        tokens=facts.tokens(shape),
        latent_bytes=prod(shape) * number_bytes,
        embedding_bytes=(config.model.max_text_tokens * facts.text_dim + framed) * number_bytes,
        pixel_bytes=sampling.num_frames * height * width * 3,
        training_videos=videos,
        generation_passes=generation,
        learning_passes=learning,
        evaluation_passes=sum(
            (videos_made(config) + _glanced_at(config, number)) * config.sampled_after(number).sampling.passes
            for number in (config.first_stage - 1, *config.numbers)
        ),
        rankings=rankings,
        roles=tuple(needs(first)),
        passes=_passes_of_a_step(first),
        notes=tuple(dict.fromkeys(said)),  # what holds for several stages is said once
    )


def _glanced_at(config: RunConfig, number: int) -> int:
    """Videos of the evaluations inside a stage; none before the first."""
    evaluation = config.evaluation
    if not evaluation.every or number < config.first_stage:
        return 0
    return config.stages[number].steps // evaluation.every * evaluation.every_videos


def _passes_of_learning_a_pair(config: RunConfig) -> int:
    """Both videos at every timestep of the window. Checkpointing makes the forward pass again; a teacher is guided."""
    passes, (stage,) = LEARNING_PASSES + config.learner.gradient_checkpointing, config.stages
    if stage.kind == "direct_align":
        passes *= stage.denoising + stage.inversion
    if config.stages[0].kind == "distill":
        passes += bool(config.sampling.guided_steps) + bool(config.sampling.skipping_steps)
    return config.learner.timesteps.count * 2 * passes


def _passes_of_a_step(config: RunConfig) -> dict[str, float]:
    generator, learner = config.generator, config.learner
    made = 2 * learner.pairs_per_step / config.buffer.max_uses * config.sampling.passes
    learned = learner.pairs_per_step * _passes_of_learning_a_pair(config)
    return {"generator": made / generator.num_actors, "learner": learned / learner.num_workers}


def _freshness(config: RunConfig) -> list[str]:
    """More pairs than can be learned from before they are too old are made for nothing."""
    buffer, generator = config.buffer, config.generator
    if all(source in AGELESS for source in made_shares(config.buffer.mix)):
        return []
    pairs_of_a_version = config.learner.pairs_per_step * config.learner.publish_every
    fresh = pairs_of_a_version * (buffer.max_staleness + 1) // buffer.max_uses
    notes = []
    if buffer.capacity > max(fresh, config.learner.pairs_per_step):
        notes.append(
            f"buffer.capacity = {buffer.capacity}, but only {fresh} pairs are learned from before they are older than "
            f"buffer.max_staleness = {buffer.max_staleness}; in a full buffer the others are thrown away"
        )
    being_made = generator.num_actors * generator.conditions_per_request
    if being_made > fresh:
        notes.append(
            f"generator.num_actors x generator.conditions_per_request = {being_made} pairs are made at once, but only "
            f"{fresh} are learned from before they are older than buffer.max_staleness = {buffer.max_staleness}"
        )
    return notes


def _balance(config: RunConfig) -> list[str]:
    """How the GPUs would be split if a pass took as long in both roles."""
    generator, learner, passes = config.generator, config.learner, _passes_of_a_step(config)
    if not config.generates or not (generator.gpus_per_actor and learner.gpus_per_worker):
        return []
    made, learned = passes["generator"] * generator.num_actors, passes["learner"] * learner.num_workers
    gpus = generator.num_actors * generator.gpus_per_actor + learner.num_workers * learner.gpus_per_worker
    return [
        f"a step is {made:,.0f} passes of generation and {learned:,.0f} of learning if every pair is kept: of "
        f"{gpus:g} GPUs about {max(1, round(gpus * learned / (made + learned)))} would learn. Every dropped pair asks "
        "for more generation"
    ]


def _idle(config: RunConfig) -> list[str]:
    """GPUs of roles that do not run in a stage may learn in it."""
    idle = config.generator.num_actors * config.generator.gpus_per_actor * (not config.has_generators)
    idle += config.ranker.num_actors * config.ranker.gpus_per_actor * (not config.asks_ranker)
    if not (idle and config.learner.gpus_per_worker) or config.generates:
        return []
    return [
        f"a stage of kind {config.stages[0].kind} leaves {idle:g} GPUs idle that generate or rank in others: give it "
        "more learner.num_workers of its own"
    ]
