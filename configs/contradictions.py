"""Values that are each right and cannot hold together. Plain arithmetic on a validated config; nothing is loaded.

What needs the bundle is checked elsewhere: `policy.bundle` knows whether its VAE can make videos of that size, and
`learner.timesteps.check_timesteps` whether its scheduler has enough high and low timesteps. `cluster/checks/` checks
what needs other files or the cluster.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.stages import OVERRIDABLE

if TYPE_CHECKING:  # the schema imports this module
    from configs.schema import RunConfig
    from configs.sections import SamplingConfig
    from configs.stages import DirectAlignStage, DistillStage


SIZE = ("num_frames", "height", "width", "pixels", "aspects", "fps")
"""Keys of `sampling` that are the run's alone."""

STORES = {"offline": "offline", "half_online": "anchors"}
"""Key of `buffer.mix` -> that of `buffer`, the store that its pairs are from."""


def contradictions(config: RunConfig) -> list[str]:
    """A sentence for each contradiction: the keys, their values and what would be right. Empty if there is none."""
    problems = [*_of_run(config)]
    read: set[str] = set()
    adapter = None
    for number, stage in enumerate(config.stages):
        try:
            merged = config.of_stage(number)
        except ValueError as error:  # an override that is no key of its section, or has a wrong value
            problems.append(str(error))
            continue
        read |= {share for share in STORES if getattr(merged.buffer.mix, share) > 0}
        problems += [
            f"stages.{number}.sampling.{key} = {own} and sampling.{key} = {getattr(config.sampling, key)}: videos "
            f"of one size go through all stages; leave {key} out of the stage"
            for key in SIZE
            if (own := getattr(merged.sampling, key)) != getattr(config.sampling, key)
        ]
        if adapter not in (None, merged.learner.lora):
            problems.append(
                f"stages.{number}.learner.lora differs from that of the stages before: one adapter goes through all "
                "stages; give learner.lora for the run"
            )
        adapter = merged.learner.lora
        if merged.sampling.guided_steps or merged.sampling.skipping_steps:
            distilled = [n for n, earlier in enumerate(config.stages[:number]) if earlier.kind == "distill"]
            problems += [
                f"stages.{number}.sampling: stages.{n} (distill) has taken guidance into the one pass, which would be "
                f"guided twice; leave guidance_scale and stg_scale out of stages.{number}.sampling"
                for n in distilled
            ]
        overrides = stage.model_dump(include=set(OVERRIDABLE))
        problems += [_with_stage(problem, f"stages.{number}.", overrides) for problem in _of_stage(merged, number)]
    if config.reward and all(stage.kind != "direct_align" for stage in config.stages):
        problems.append(f"reward.path = {config.reward.path} is never read: no stage is direct_align")
    for share, key in STORES.items():
        if (store := getattr(config.buffer, key)) and share not in read:
            problems.append(f"buffer.{key} = {store} is never read: buffer.mix.{share} = 0 and no stage is {share}")
    return list(dict.fromkeys(problems))  # what holds for several stages is said once


def _with_stage(problem: str, stage: str, overrides: dict[str, Any], before: str = "") -> str:
    """The sentence with the stage's own key path (`stages.1.buffer.capacity`) for each key that the stage overrides."""
    for name, value in overrides.items():
        key = before + name
        if isinstance(value, dict):
            problem = _with_stage(problem, stage, value, f"{key}.")
        else:
            problem = re.sub(rf"(?<![\w.]){re.escape(key)}(?!\w)", stage + key, problem)
    return problem


def _of_run(config: RunConfig) -> Iterator[str]:
    evaluation, cluster = config.evaluation, config.cluster
    videos, shown = evaluation.videos, evaluation.shown_videos
    yield from _of_start(config)
    if evaluation.best and not evaluation.every:
        yield f"evaluation.best = {evaluation.best} needs evaluation.every: after how many steps adapters are compared"
    if evaluation.every and evaluation.every_videos > videos:
        yield (
            f"evaluation.every_videos = {evaluation.every_videos} is more than evaluation.videos = {videos}: they are "
            f"the first of the same videos; use at most {videos}"
        )
    if evaluation.every_videos % 2:
        yield f"evaluation.every_videos = {evaluation.every_videos}: a condition makes two; use an even number"
    if videos % 2:
        yield f"evaluation.videos = {videos}: a condition makes two; use {videos - 1 or 2} or {videos + 1}"
    if shown > videos:
        yield f"evaluation.shown_videos = {shown} is more than evaluation.videos = {videos}; use at most {videos}"
    if evaluation.prompts == config.prompts.train:
        yield (
            f"evaluation.prompts and prompts.train are the same file ({evaluation.prompts}): what is measured has to "
            "be held out from what is learned from"
        )
    for name, value in (("num_cpus", cluster.num_cpus), ("dashboard", cluster.dashboard)):
        if value and cluster.address == "auto":
            yield (
                f"cluster.{name} = {str(value).lower()} and cluster.address = auto: a cluster that is joined has its "
                f"own; leave {name} out, or use address: local"
            )
    if cluster.address == "auto" and not Path(config.out).is_absolute():
        yield (
            f"out = {config.out} is relative and cluster.address = auto: a submitted job works in a copy of the "
            "working directory, which Ray deletes in the end; give an absolute path on storage that every node sees"
        )


def _of_start(config: RunConfig) -> Iterator[str]:
    """A curriculum is run from its beginning, or from a stage in its middle with what the stages before it left."""
    first, count = config.first_stage, len(config.stages)
    if not config.numbers or config.numbers[-1] >= count:
        last = config.numbers.stop - 1
        yield f"first_stage = {first} and last_stage = {last}: there are stages 0 to {count - 1}, the first comes first"
        return
    if config.start_from is not None:
        return
    if first:
        yield (
            f"first_stage = {first} begins in the middle of the curriculum: give start_from, the adapter that stage "
            f"{first - 1} ({config.stages[first - 1].kind}) left"
        )
    elif config.stages[0].kind == "distill_aware":
        yield (
            "stages.0: distill_aware goes on from a distilled student: put a distill stage before it, or give "
            "start_from, the adapter that one left"
        )


def _of_stage(config: RunConfig, number: int) -> Iterator[str]:
    """`config` is as stage `number` sees it. The sentences name keys without `stages.N`, except for the stage's own."""
    (stage,) = config.stages
    sampling, buffer, mix, ranker = config.sampling, config.buffer, config.buffer.mix, config.ranker
    if not config.generates and (stage.generator or (stage.sampling and stage.kind != "distill")):
        kind = stage.kind.replace("_", "-")
        yield f"stages.{number}: this {kind} stage generates nothing; leave its sampling and generator out"
    yield from _of_guidance(sampling)
    yield from _of_learner(config, number)
    if buffer.capacity < (pairs := config.learner.pairs_per_step):
        yield (
            f"buffer.capacity = {buffer.capacity} is less than learner.pairs_per_step = {pairs}: a step would wait for "
            f"ever; use {pairs} or more"
        )
    shares = mix.model_dump()
    if not math.isclose(total := sum(shares.values()), 1.0, abs_tol=1e-9):
        yield f"buffer.mix: {', '.join(shares)} sum to {total:g}; they must sum to 1"
    for share, key in STORES.items():
        if shares[share] and not getattr(buffer, key):
            yield f"buffer.mix.{share} = {shares[share]:g} needs buffer.{key}, a store made by apogee data ingest"
    if stage.kind == "distill":
        yield from _of_distillation(stage, sampling, number)
    elif stage.kind == "direct_align":
        yield from _of_direct_align(config, stage, number)
    if stage.kind in ("distill", "direct_align"):
        if mix.online or mix.half_online:
            yield f"stages.{number}: {stage.kind} learns no preference; its buffer.mix has unjudged and offline alone"
    elif mix.unjudged:
        yield (
            f"buffer.mix.unjudged = {mix.unjudged:g}: only distill and direct_align stages learn from videos without "
            "a preference"
        )
    if buffer.when_full == "drop_oldest" and len(mix.generated) > 1:
        yield "buffer.when_full = drop_oldest would drop the pairs that buffer.mix is short of; use wait, or one source"
    if ranker.kind == "function" and not ranker.function:
        yield "ranker.kind = function needs ranker.function, `module:function`, called with (frames, prompt)"
    if ranker.kind == "qwen_vl" and not ranker.path and mix.online:
        yield "ranker.path is missing: the folder of a Qwen3-VL checkpoint; or give ranker.kind: function"
    if ranker.kind == "qwen_vl" and mix.online and ranker.frames > (frames := sampling.num_frames):
        yield f"ranker.frames = {ranker.frames} is more than sampling.num_frames = {frames}; use at most {frames}"


def _of_distillation(stage: DistillStage, sampling: SamplingConfig, number: int) -> Iterator[str]:
    for key, fixed, none in (("guidance_scale", sampling.guidance_scale, 1.0), ("stg_scale", sampling.stg_scale, 0.0)):
        low, high = scales = getattr(stage, f"{key}s") or [fixed, fixed]
        if low > high:
            yield f"stages.{number}.{key}s = {scales}: the first is the smaller one"
        if high > none and fixed == none:
            yield f"stages.{number}.{key}s = {scales} and sampling.{key} = {fixed:g} makes no such pass; raise it"
    if not (sampling.guided_steps or sampling.skipping_steps):
        yield (
            f"stages.{number}: distill takes guidance into one pass, and there is none: sampling.guidance_scale = "
            f"{sampling.guidance_scale:g}, sampling.stg_scale = {sampling.stg_scale:g}"
        )


def _of_direct_align(config: RunConfig, stage: DirectAlignStage, number: int) -> Iterator[str]:
    where, reward = f"stages.{number}", config.reward
    if (kind := config.learner.timesteps.kind) != "levels":
        yield f"learner.timesteps.kind = {kind}: direct_align jumps between levels; leave it out"
    if not (stage.denoising or stage.inversion):
        yield f"{where}: denoising and inversion are both false: there is nothing to learn from; switch one on"
    if reward is None:
        yield f"{where}: direct_align learns from a reward: give the section reward, with the path of a CLIP-like model"
        return
    if stage.inversion and not reward.words:
        yield (
            f"{where}.inversion = true needs reward.words: its gradient has the other sign, so it exchanges the two "
            "texts, and without control words there is one"
        )
    if stage.inversion and stage.recover == "one_step":
        yield f"{where}: inversion jumps to a noisier level and recover = one_step to the end; leave one of them out"
    frames = config.sampling.num_frames
    if (decoded := reward.latent_frames) > 1 + frames // 4:
        yield (
            f"reward.latent_frames = {decoded} is more than a video of sampling.num_frames = {frames} has; use at most "
            f"{1 + frames // 4}"
        )


def _of_guidance(sampling: SamplingConfig) -> Iterator[str]:
    if sampling.negative_prompt and sampling.guidance_scale == 1.0:
        yield (
            "sampling.negative_prompt is given and sampling.guidance_scale = 1.0 never looks at it: raise the scale "
            "above 1, or leave the negative prompt out"
        )
    if bool(sampling.stg_blocks) != (sampling.stg_scale > 0):
        yield (
            f"sampling.stg_scale = {sampling.stg_scale:g} and sampling.stg_blocks = {sampling.stg_blocks}: give both, "
            "a scale above 0 and the blocks that are skipped, or neither"
        )
    for name in ("guidance", "stg"):
        first, end = getattr(sampling, f"{name}_from"), getattr(sampling, f"{name}_to")
        if int(first * sampling.steps) >= int(end * sampling.steps):
            yield (
                f"sampling.{name}_from = {first:g} and sampling.{name}_to = {end:g} leave none of the sampling.steps = "
                f"{sampling.steps} steps: the first is the smaller share; give 0 and 1 for all of them"
            )


def _of_learner(config: RunConfig, number: int) -> Iterator[str]:
    (stage,) = config.stages
    learner, timesteps = config.learner, config.learner.timesteps
    pairs, workers, published = learner.pairs_per_step, learner.num_workers, learner.publish_every
    share, rest = divmod(pairs, workers)
    if rest:
        yield (
            f"learner.pairs_per_step = {pairs} cannot be split evenly over learner.num_workers = {workers}; the "
            f"nearest number of pairs that can is {max(1, round(pairs / workers)) * workers}"
        )
    elif learner.microbatch_pairs > share:
        yield (
            f"learner.microbatch_pairs = {learner.microbatch_pairs} is more than the {share} pairs that each of "
            f"learner.num_workers = {workers} has of learner.pairs_per_step = {pairs}; use at most {share}"
        )
    for key in ("max_drift", "max_accuracy", "max_loss"):
        if (band := getattr(learner, key)) and band[0] > band[1]:
            yield f"learner.{key} = {band}: a stage warns at the first number and stops at the second, the larger one"
    if published > stage.steps:
        yield (
            f"learner.publish_every = {published} is more than stages.{number}.steps = {stage.steps}: no new weights "
            f"would ever reach the generators; use at most {stage.steps}"
        )
    if timesteps.kind != "apo":
        return
    if not timesteps.count:
        yield "learner.timesteps.high = 0 and learner.timesteps.low = 0 leave nothing to learn from; the paper: 4 and 1"
    if config.sampling.steps < timesteps.count:
        yield (
            f"sampling.steps = {config.sampling.steps} has fewer grid timesteps than learner.timesteps.high = "
            f"{timesteps.high} and learner.timesteps.low = {timesteps.low} need; use {timesteps.count} steps or more, "
            "or a smaller window"
        )
    if timesteps.random_shift and not timesteps.shifts:
        yield "learner.timesteps.random_shift = true needs learner.timesteps.shifts; give one, or set it to false"
    if timesteps.random_offset and timesteps.offset_variance == 0:
        yield "learner.timesteps.random_offset = true and learner.timesteps.offset_variance = 0: give 5, or use false"
