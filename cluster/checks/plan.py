"""What a config will do, from arithmetic alone: nothing is loaded or started.

`apogee check` prints it. The estimates are counts (videos, transformer passes, tokens, bytes), never seconds: those
depend on the machine.
"""

from dataclasses import dataclass
from math import prod

from configs.schema import RunConfig

LATENT_CHANNELS, TEMPORAL_FACTOR, SPATIAL_FACTOR, PATCH = 16, 4, 8, (1, 2, 2)
"""Wan2.1 and Wan2.2-A14B, assumed where the bundle is not there to be asked."""

LEARNING_PASSES = 4
"""Forward passes' worth of learning from one latent at one timestep: policy 1, reference 1, backward 2."""


@dataclass(frozen=True)
class RolePlan:
    """One role: how many processes, what one of them asks Ray for, and its share of the work of one optimizer step.

    `passes`: transformer forward passes of one video, or as much work; per process and step. 0 for the ranker.
    """

    role: str
    count: int
    cpus: float
    gpus: float
    passes: float


@dataclass(frozen=True)
class Plan:
    """The figures of a run. `latent_shape` is `[channels, frames, height, width]`; bytes are of one video."""

    config: RunConfig
    latent_shape: tuple[int, int, int, int]
    tokens: int
    latent_bytes: int
    pixel_bytes: int
    pairs: int
    training_videos: int
    generation_passes: int
    learning_passes: int
    evaluation_passes: int
    rankings: int
    roles: tuple[RolePlan, ...]
    notes: tuple[str, ...]


def plan(
    config: RunConfig,
    *,
    latent_shape: tuple[int, int, int, int] | None = None,
    patch: tuple[int, int, int] = PATCH,
) -> Plan:
    """Work out the plan. `latent_shape` and `patch` are the bundle's; without them Wan2.1's are assumed."""
    sampling, learner = config.sampling, config.learner
    shape = latent_shape or (
        LATENT_CHANNELS,
        (sampling.num_frames - 1) // TEMPORAL_FACTOR + 1,
        sampling.height // SPATIAL_FACTOR,
        sampling.width // SPATIAL_FACTOR,
    )
    steps = sum(stage.steps for stage in config.stages)
    pairs = steps * learner.pairs_per_step
    fresh_pairs = -(-pairs // config.buffer.max_uses)
    video, pair = _passes_of_a_video(config), _passes_of_learning_a_pair(config)
    return Plan(
        config=config,
        latent_shape=shape,
        tokens=prod(shape[1:]) // prod(patch),
        latent_bytes=prod(shape) * (2 if config.model.dtype == "bfloat16" else 4),
        pixel_bytes=sampling.num_frames * sampling.height * sampling.width * 3,
        pairs=pairs,
        training_videos=2 * fresh_pairs,
        generation_passes=2 * fresh_pairs * video,
        learning_passes=pairs * pair,
        evaluation_passes=2 * config.evaluation.videos * video,
        rankings=fresh_pairs * (2 if config.ranker.both_orders else 1),
        roles=_roles(config),
        notes=(*_freshness_notes(config), *_balance_notes(config)),
    )


def _passes_of_a_video(config: RunConfig) -> int:
    """Guidance adds a second pass at every sampling step."""
    return config.sampling.steps * (2 if config.sampling.guidance_scale > 1 else 1)


def _passes_of_learning_a_pair(config: RunConfig) -> int:
    """Both videos at every timestep of the window; checkpointing computes the forward pass again."""
    return config.learner.timesteps.count * 2 * (LEARNING_PASSES + (1 if config.learner.gradient_checkpointing else 0))


def _roles(config: RunConfig) -> tuple[RolePlan, ...]:
    generator, ranker, learner = config.generator, config.ranker, config.learner
    made = 2 * learner.pairs_per_step / config.buffer.max_uses * _passes_of_a_video(config)
    learned = learner.pairs_per_step * _passes_of_learning_a_pair(config)
    return (
        RolePlan(
            "generator",
            generator.num_actors,
            generator.cpus_per_actor,
            generator.gpus_per_actor,
            made / generator.num_actors,
        ),
        RolePlan("ranker", ranker.num_actors, ranker.cpus_per_actor, ranker.gpus_per_actor, 0.0),
        RolePlan(
            "learner",
            learner.num_workers,
            learner.cpus_per_worker,
            learner.gpus_per_worker,
            learned / learner.num_workers,
        ),
    )


def _freshness_notes(config: RunConfig) -> list[str]:
    """More pairs than can be learned from before they are too old are made for nothing."""
    buffer, generator = config.buffer, config.generator
    a_version = config.learner.pairs_per_step * config.learner.publish_every
    fresh = a_version * (buffer.max_staleness + 1) // buffer.max_uses
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


def _balance_notes(config: RunConfig) -> list[str]:
    """How the GPUs would be split if a pass took as long in both roles."""
    generator, _, learner = _roles(config)
    made, learned = generator.passes * generator.count, learner.passes * learner.count
    gpus = generator.count * generator.gpus + learner.count * learner.gpus
    if not (generator.gpus and learner.gpus):
        return []
    even = max(1, round(gpus * learned / (made + learned)))
    return [
        f"a step is {made:,.0f} passes of generation and {learned:,.0f} of learning if every pair is kept: of "
        f"{gpus:g} GPUs about {even} would learn. Every dropped pair asks for more generation"
    ]


def render(plan: Plan) -> str:
    """The plan as text for a person, a dozen lines or two."""
    config = plan.config
    lines = [f"{config.name}: into {config.out}, seed {config.seed}", "", "stages"]
    learner, sampling = config.learner, config.sampling
    lines += [
        f"  {number}. {stage.kind}: {stage.steps} steps of {learner.pairs_per_step} pairs, "
        f"new weights every {_plural(learner.publish_every, 'step')}"
        for number, stage in enumerate(config.stages)
    ]
    lines += ["", f"  {'roles':10} {'processes':>10} {'CPU each':>9} {'GPU each':>9} {'passes each step':>17}"]
    for role in plan.roles:
        passes = f"{role.passes:,.0f}" if role.passes else "-"
        lines.append(f"  {role.role:10} {role.count:10} {role.cpus:9g} {role.gpus:9g} {passes:>17}")
    cpus = sum(role.count * role.cpus for role in plan.roles)
    gpus = sum(role.count * role.gpus for role in plan.roles)
    lines.append(f"  in all: {cpus:g} CPU and {gpus:g} GPU, {_where(config)}")
    lines += [
        "",
        "work, if every pair is kept",
        f"  {plan.training_videos:,} videos to learn from and 2 x {config.evaluation.videos:,} to measure, "
        f"{sampling.num_frames} frames of {sampling.height}x{sampling.width}",
        f"  {plan.generation_passes:,} transformer passes to generate, {plan.learning_passes:,} passes' worth to "
        f"learn, {plan.evaluation_passes:,} to measure",
        f"  {plan.rankings:,} questions to the ranker, {config.ranker.frames} frames of each video",
        "",
        "size",
        f"  a video is {plan.tokens:,} tokens; {_bytes(plan.latent_bytes)} as latents "
        f"{'x'.join(map(str, plan.latent_shape))} in {config.model.dtype}, {_bytes(plan.pixel_bytes)} as pixels",
        f"  latents waiting in a full buffer: {_bytes(config.buffer.capacity * 2 * plan.latent_bytes)}; "
        f"of the whole run on disk: {_bytes(plan.training_videos * plan.latent_bytes)}",
        f"  pixels between generators and rankers: up to {_bytes(_pixels_in_flight(plan))} in the object store",
    ]
    if plan.notes:
        lines += ["", "notes", *(f"  - {note}" for note in plan.notes)]
    return "\n".join(lines)


def _pixels_in_flight(plan: Plan) -> int:
    generator = plan.config.generator
    videos = 2 * generator.conditions_per_request * generator.requests_in_flight * generator.num_actors
    return videos * plan.pixel_bytes


def _where(config: RunConfig) -> str:
    if config.cluster.address == "auto":
        return "on the cluster that is joined (cluster.address = auto)"
    cpus = config.cluster.num_cpus
    return f"on this machine (cluster.num_cpus = {cpus})" if cpus else "on this machine"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{count} {noun}s"


def _bytes(count: int) -> str:
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"
