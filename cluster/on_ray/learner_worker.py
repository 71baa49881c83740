"""What every process of the learner's Ray Train group runs: build or restore the learner, then `learn_steps`.

Rank 0 writes the state of the run as a folder (`run_state.py`). Metrics and weights go through actors.
"""

from dataclasses import replace
from typing import Any

import ray

from buffers.records import Batch, EncodedCondition, Snapshot
from buffers.tensors import decode
from cluster import run_state
from cluster.learn_steps import learn_steps
from cluster.on_ray.train_group import device, ranks, train_group
from cluster.run_folder import RunFolder
from cluster.run_state import Position, RunState
from configs.schema import RunConfig
from learner.learner import Learner
from learner.mesh import Mesh
from learner.objectives import Objective
from learner.objectives.distill import Distill
from learner.objectives.dpo import Dpo
from policy.conditioning import Conditioning
from policy.lora.adapters import load_lora, save_lora
from policy.policy import VideoPolicy


def make_trainer(config: RunConfig, *, number: int, folder: RunFolder, negative: Any = None, **actors: Any) -> Any:
    """The Ray Train group of a stage. `config`: as the stage sees it (`RunConfig.of_stage`); `number`: the stage's.

    negative: a reference to the conditioning of the unconditional pass, if the stage distills. actors: the handles of
    `buffer`, `weights` and `metrics`.
    """
    given = {"config": config, "number": number, "checkpoints": folder.checkpoints, "negative": negative, **actors}
    return train_group(
        train_worker, given, section=config.learner, cluster=config.cluster, name=f"stage-{number}", logs=folder.logs
    )


def build_learner(config: RunConfig, mesh: Mesh, objective: Objective) -> Learner:
    """A learner at step 0 of a run."""
    policy = VideoPolicy.load(
        config.model.path,
        dtype=config.model.dtype,
        device=device(),
        lora=config.learner.lora,
        seed=config.seed,
        max_text_tokens=config.model.max_text_tokens,
    )
    steps = config.sampling.steps
    return Learner(policy, config.learner, objective, sampling_steps=steps, seed=config.seed, mesh=mesh)


def objective_of(config: RunConfig, negative: EncodedCondition | None) -> Objective:
    """The loss of the stage. `negative`: the conditioning of the unconditional pass, if the stage distills."""
    (stage,), sampling = config.stages, config.sampling
    if stage.kind != "distill":
        return Dpo(config.learner.beta)
    assert negative is not None, "a stage that distills is given the negative conditioning"
    scales = stage.guidance_scales or [sampling.guidance_scale] * 2
    stg_scales = stage.stg_scales or [sampling.stg_scale] * 2
    embeds = {"prompt_embeds": decode(negative.prompt_embeds)}
    return Distill(sampling, scales, stg_scales, Conditioning.of_row(embeds))


def go_on(learner: Learner, config: RunConfig, state: RunState | None, *, number: int) -> Position:
    """Bring a new learner to where stage `number` of the run stands, and say where that is.

    At the beginning of a stage the adapter is the one that the stage before left, or `start_from`'s, or a new one that
    changes nothing. Except for the last, a frozen copy of it is the reference.
    """
    if state is not None:
        learner.restore(state.learner)
        if state.position.stage == number:
            return state.position
    elif config.start_from is not None:
        load_lora(config.start_from, learner.policy.transformers)
    else:
        return Position(number, first_step=0, version=0, buffer={})
    learner.begin_stage(config.learner, learner.objective, sampling_steps=config.sampling.steps)
    return Position(number, learner.steps, version=state.position.version + 1 if state else 0, buffer={})


def train_worker(given: dict[str, Any]) -> None:
    """Ray Train's function; `given` holds what `make_trainer` put there."""
    config: RunConfig = given["config"]
    number, checkpoints = given["number"], given["checkpoints"]
    buffer, weights, metrics = given["buffer"], given["weights"], given["metrics"]
    mesh = ranks()
    negative: EncodedCondition | None = ray.get(given["negative"]) if given["negative"] is not None else None
    learner = build_learner(config, mesh, objective_of(config, negative))
    position = go_on(learner, config, run_state.newest(checkpoints), number=number)

    def take(step: int) -> Batch | None:
        count = config.learner.pairs_per_step
        return ray.get(buffer.take.remote(step, count, rank=mesh.data_rank, world_size=mesh.data_size))

    def publish(snapshot: Snapshot) -> None:
        if mesh.data_rank:
            return
        # A group that was restarted repeats steps: the generators hold those weights already.
        newest: int = ray.get(weights.version.remote())
        if snapshot.version > newest:
            ray.get(weights.publish.remote(snapshot))  # by value: the store puts it, so that it outlives this worker
        ray.get(buffer.advance.remote(snapshot.version))

    def save(version: int) -> None:
        if mesh.data_rank:
            return
        here = replace(position, version=version, buffer=ray.get(buffer.cursor.remote()))
        run_state.save(
            checkpoints,
            RunState(here, learner.state()),
            export=lambda folder: save_lora(folder, learner.policy.transformers, config.learner.lora),
        )

    def record(kind: str, row: dict[str, Any]) -> None:
        if not mesh.data_rank:
            metrics.record.remote(kind, {**row, "stage": number})

    learn_steps(
        learner,
        steps=position.first_step + config.stages[0].steps,
        first_version=position.version,
        publish_every=config.learner.publish_every,
        checkpoint_every=config.learner.checkpoint_every,
        checkpoint_seconds=60 * config.learner.checkpoint_minutes,
        take=take,
        publish=publish,
        save=save,
        record=record,
        agree=mesh.agree,
        teacher=learner.reference_snapshot if config.stages[0].kind == "distill" else None,
    )
