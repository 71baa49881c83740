"""What a config will do, from arithmetic alone: nothing is loaded or started.

`apogee check` prints it. The estimates are counts (videos, transformer passes, tokens, bytes), never seconds: those
depend on the machine.
"""

from dataclasses import dataclass
from math import prod

from cluster.checks.resources import Need, needs
from cluster.evaluation import videos_made
from configs.schema import RunConfig
from policy.bundle import WAN, BundleFacts

LEARNING_PASSES = 4
"""Forward passes' worth of learning from one latent at one timestep: policy 1, reference 1, backward 2."""


@dataclass(frozen=True)
class Plan:
    """The figures of a run, over all stages.

    latent_shape: `[channels, frames, height, width]`. latent_bytes, pixel_bytes: of one video. embedding_bytes: of one
    condition. roles: of the first stage. passes: transformer passes of one optimizer step per process of a role, or as
    much work; a backward pass counts as two.
    """

    config: RunConfig
    latent_shape: tuple[int, int, int, int]
    tokens: int
    latent_bytes: int
    embedding_bytes: int
    pixel_bytes: int
    pairs: int
    training_videos: int
    generation_passes: int
    learning_passes: int
    evaluation_passes: int
    rankings: int
    roles: tuple[Need, ...]
    passes: dict[str, float]
    notes: tuple[str, ...]


def plan(config: RunConfig, facts: BundleFacts = WAN) -> Plan:
    """Work out the plan. Without facts of the bundle, those of Wan2.1 are assumed.

    Raises ValueError if the bundle cannot make videos of that size.
    """
    sampling, first = config.sampling, config.of_stage(0)
    shape = facts.latent_shape(sampling.num_frames, sampling.height, sampling.width)
    number_bytes = 2 if config.model.dtype == "bfloat16" else 4
    pairs = videos = generation = learning = rankings = 0
    for stage in config.by_stage():
        learned = stage.stages[0].steps * stage.learner.pairs_per_step
        judged = -(-learned // stage.buffer.max_uses) if stage.stages[0].kind == "online" else 0
        pairs += learned
        videos += 2 * judged
        generation += 2 * judged * _passes_of_a_video(stage)
        learning += learned * _passes_of_learning_a_pair(stage)
        rankings += judged * (2 if config.ranker.both_orders else 1)
    return Plan(
        config=config,
        latent_shape=shape,
        tokens=prod(shape[1:]) // prod(facts.patch),
        latent_bytes=prod(shape) * number_bytes,
        embedding_bytes=config.model.max_text_tokens * facts.text_dim * number_bytes,
        pixel_bytes=sampling.num_frames * sampling.height * sampling.width * 3,
        pairs=pairs,
        training_videos=videos,
        generation_passes=generation,
        learning_passes=learning,
        evaluation_passes=2 * videos_made(config) * _passes_of_a_video(config),
        rankings=rankings,
        roles=tuple(needs(first)),
        passes=_passes_of_a_step(first),
        notes=tuple(note for stage in config.by_stage() for note in (*_freshness(stage), *_balance(stage))),
    )


def _passes_of_a_video(config: RunConfig) -> int:
    """Guidance adds a second pass at every sampling step."""
    return config.sampling.steps * (2 if config.sampling.guidance_scale > 1 else 1)


def _passes_of_learning_a_pair(config: RunConfig) -> int:
    """Both videos at every timestep of the window; checkpointing computes the forward pass again."""
    return config.learner.timesteps.count * 2 * (LEARNING_PASSES + (1 if config.learner.gradient_checkpointing else 0))


def _passes_of_a_step(config: RunConfig) -> dict[str, float]:
    generator, learner = config.generator, config.learner
    made = 2 * learner.pairs_per_step / config.buffer.max_uses * _passes_of_a_video(config)
    learned = learner.pairs_per_step * _passes_of_learning_a_pair(config)
    return {"generator": made / generator.num_actors, "learner": learned / learner.num_workers}


def _freshness(config: RunConfig) -> list[str]:
    """More pairs than can be learned from before they are too old are made for nothing."""
    buffer, generator = config.buffer, config.generator
    if config.stages[0].kind == "offline":
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
    if config.stages[0].kind == "offline" or not (generator.gpus_per_actor and learner.gpus_per_worker):
        return []
    made, learned = passes["generator"] * generator.num_actors, passes["learner"] * learner.num_workers
    gpus = generator.num_actors * generator.gpus_per_actor + learner.num_workers * learner.gpus_per_worker
    return [
        f"a step is {made:,.0f} passes of generation and {learned:,.0f} of learning if every pair is kept: of "
        f"{gpus:g} GPUs about {max(1, round(gpus * learned / (made + learned)))} would learn. Every dropped pair asks "
        "for more generation"
    ]


def render(plan: Plan) -> str:
    """The plan as text for a person, a dozen lines or two."""
    config, sampling, generator = plan.config, plan.config.sampling, plan.config.generator
    videos = 2 * generator.conditions_per_request * generator.requests_in_flight * generator.num_actors
    stages = [
        f"  {number}. {stage.stages[0].kind}: {stage.stages[0].steps} steps of {stage.learner.pairs_per_step} pairs, "
        f"new weights every {_steps(stage.learner.publish_every)}"
        for number, stage in enumerate(config.by_stage())
    ]
    roles = [
        f"  {need.role:10} {need.count:10} {need.cpus:9g} {need.gpus:9g} {_passes(plan.passes.get(need.role)):>17}"
        for need in plan.roles
    ]
    cpus = sum(need.count * need.cpus for need in plan.roles)
    gpus = sum(need.count * need.gpus for need in plan.roles)
    return "\n".join(
        [
            f"{config.name}: into {config.out}, seed {config.seed}",
            "",
            "stages",
            *stages,
            "",
            f"  {'roles':10} {'processes':>10} {'CPU each':>9} {'GPU each':>9} {'passes each step':>17}",
            *roles,
            f"  in all: {cpus:g} CPU and {gpus:g} GPU, {_where(config)}",
            "",
            "work, if every pair is kept",
            f"  {plan.training_videos:,} videos to learn from and 2 x {videos_made(config):,} to measure, "
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
            f"  pixels between generators and rankers: up to {_bytes(videos * plan.pixel_bytes)} in the object store",
            *(["", "notes"] if plan.notes else []),
            *(f"  - {note}" for note in plan.notes),
        ]
    )


def _where(config: RunConfig) -> str:
    if config.cluster.address == "auto":
        return "on the cluster that is joined (cluster.address = auto)"
    cpus = config.cluster.num_cpus
    return f"on this machine (cluster.num_cpus = {cpus})" if cpus else "on this machine"


def _steps(count: int) -> str:
    return "step" if count == 1 else f"{count} steps"


def _passes(count: float | None) -> str:
    return "-" if count is None else f"{count:,.0f}"


def _bytes(count: int) -> str:
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g} {units[0]}"
