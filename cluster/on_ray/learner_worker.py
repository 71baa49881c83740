"""What every process of the learner's Ray Train group runs: one stage after the other, as the board says.

The policy is loaded once. A stage builds or restores its learner, then `learn_steps` runs. Rank 0 writes the state of
the run as a folder (`run_state.py`). Metrics and weights go through actors.
"""

import json
import math
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from torch import Tensor

from buffers.records import Batch, EncodedCondition, Snapshot
from buffers.tensors import decoded_condition
from cluster import run_state
from cluster.learn_steps import learn_steps
from cluster.on_ray.train_group import device, ranks, train_group
from cluster.run_folder import RunFolder, Sampled
from cluster.run_state import Position, RunState
from configs.schema import RunConfig
from learner.guards import Guards
from learner.learner import Learner
from learner.levels import Levels
from learner.mesh import Mesh
from learner.objectives import Objective
from learner.objectives.direct_align import DirectAlign
from learner.objectives.distill import Distill
from learner.objectives.dpo import Dpo
from learner.reward import ImageTextReward, WordsFile
from media.whole import whole_folder
from policy.bundle import EXPERTS, BundleFacts
from policy.conditioning import Conditioning
from policy.flops import forward_flops
from policy.lora.adapters import load_lora, save_lora
from policy.policy import VideoPolicy, check_device

BEST_FILE = "best.json"
"""Beside the best adapter of a stage: at which step it was, and how good."""


@dataclass(frozen=True)
class Stage:
    """What the group is given of a stage. `config`: as the stage sees it (`RunConfig.of_stage`); `number`: the stage's.

    `sampled`: how its adapter is to be sampled. `buffer`: the handle of its buffer. `negative`: a reference to the
    conditioning of the unconditional pass, if the stage distills.
    """

    config: RunConfig
    number: int
    sampled: Sampled
    buffer: Any
    negative: Any = None

    @property
    def kind(self) -> str:
        return self.config.stages[0].kind


def make_trainer(config: RunConfig, *, folder: RunFolder, **actors: Any) -> Any:
    """A Ray Train group for stages with this config's `learner` processes, one after the other.

    actors: the handles of `board`, `weights` and `metrics`.
    """
    given = {"config": config, "around": {"folder": folder, **actors}}
    name = f"learner-{secrets.token_hex(4)}"  # of a group that was there before
    return train_group(train_worker, given, section=config.learner, name=name, logs=folder.logs, restarts=0)


def load_policy(config: RunConfig) -> VideoPolicy:
    """The bundle with a new adapter, on the device of this process."""
    check_device(device())
    return VideoPolicy.load(
        config.model.path,
        dtype=config.model.dtype,
        device=device(),
        lora=config.learner.lora,
        seed=config.seed,
        max_text_tokens=config.model.max_text_tokens,
        idle_expert=config.model.idle_expert,
    )


def objective_of(policy: VideoPolicy, config: RunConfig, negative: EncodedCondition | None) -> Objective:
    """The loss of the stage. `negative`: the conditioning of the unconditional pass, if the stage distills."""
    (stage,), sampling = config.stages, config.sampling
    if stage.kind == "direct_align":
        assert config.reward is not None, "a stage that needs a reward has one"
        timesteps, boundary = config.learner.timesteps, policy.boundary_ratio
        levels = Levels(timesteps, policy.scheduler, sampling.steps, boundary_ratio=boundary)
        reward = ImageTextReward(config.reward.path, device=policy.device)
        words = WordsFile(config.reward.words) if config.reward.words else None
        return DirectAlign(stage, config.reward, reward, words, levels)
    if stage.kind != "distill":
        return Dpo(config.learner.beta)
    assert negative is not None, "a stage that distills is given the negative conditioning"
    scales = {expert: stage.guidance_scales or [sampling.scale_of(expert)] * 2 for expert in EXPERTS}
    stg_scales = stage.stg_scales or [sampling.stg_scale] * 2
    return Distill(sampling, scales, stg_scales, Conditioning.of_row(decoded_condition(negative)))


def go_on(learner: Learner, config: RunConfig, state: RunState | None, *, number: int) -> Position:
    """Bring a learner to where stage `number` of the run stands, and say where that is.

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
    mesh, policy, around = ranks(), load_policy(given["config"]), given["around"]
    board = around["board"]
    while True:
        assigned: list[Any] | None = ray.get(board.next.remote())
        if assigned is None:
            return
        stage: Stage = ray.get(assigned[0])
        learn_stage(policy, mesh, stage, **around)
        if not mesh.data_rank:
            ray.get(board.end.remote())
        mesh.agree(True)  # no rank asks for the next stage before this one has ended


def learn_stage(
    policy: VideoPolicy, mesh: Mesh, stage: Stage, *, folder: RunFolder, board: Any, weights: Any, metrics: Any
) -> None:
    """One stage, from the newest state of the run to the stage's end."""
    config, number, buffer = stage.config, stage.number, stage.buffer
    negative: EncodedCondition | None = ray.get(stage.negative) if stage.negative is not None else None
    objective, steps = objective_of(policy, config, negative), config.sampling.steps
    learner = Learner(policy, config.learner, objective, sampling_steps=steps, seed=config.seed, mesh=mesh)
    state = run_state.newest(folder.checkpoints)
    position = go_on(learner, config, state, number=number)
    if position.stopped:  # the group was lost before it could say so
        return
    held = run_state.published(state) if state is not None and state.position == position else None
    best = Best(folder.best_of(number, stage.kind))
    writer, writing = ThreadPoolExecutor(1), list[Future[Path]]()

    shapes: list[tuple[int, ...]] = []

    def take(step: int) -> Batch | None:
        count = config.learner.pairs_per_step
        batch: Batch | None = ray.get(buffer.take.remote(step, count, rank=mesh.data_rank, world_size=mesh.data_size))
        shapes[:] = batch.shapes if batch else ()
        return batch

    def publish(snapshot: Snapshot) -> None:
        if mesh.data_rank:
            return
        # A group that was restarted repeats steps: the generators hold those weights already.
        newest: int = ray.get(weights.version.remote())
        if snapshot.version > newest:
            ray.get(weights.publish.remote(snapshot))  # by value: the store puts it, so that it outlives this worker
        ray.get(buffer.advance.remote(snapshot.version))

    def set_aside(step: int, ids: Sequence[str]) -> None:
        if ids:
            ray.get(buffer.set_aside.remote(step, ids))
            record("set_aside", {"step": step, "ids": [*ids]})

    def export(adapter: Path, held: Mapping[str, Tensor] | None = None) -> None:
        save_lora(adapter, policy.transformers, config.learner.lora, state=held)
        stage.sampled.write(adapter)

    def save(version: int, stopped: bool, published: Snapshot | None) -> None:
        """Copies the state and lets the next step begin; a second one waits until the first is on disk."""
        if mesh.data_rank:
            return
        here = replace(position, version=version, buffer=ray.get(buffer.cursor.remote()), stopped=stopped)
        state = RunState(here, learner.state(published=published))
        for saving in writing:
            saving.result()
        write = partial(run_state.save, export=partial(export, held=state.learner.adapter))
        writing[:] = [writer.submit(write, folder.checkpoints_of(number, stage.kind), state)]

    def evaluate() -> None:
        """Asks how good the policy is now, and keeps it if it is the best of the stage so far."""
        if mesh.data_rank:
            return
        value: float | None = ray.get(board.ask.remote(learner.steps, [ray.put(learner.snapshot(learner.steps))]))
        best.offer(value, learner.steps, export)

    def take_back() -> None:
        mesh.agree(True)  # rank 0 has written what it has to write
        best.load(policy)

    def record(kind: str, row: dict[str, Any]) -> None:
        if mesh.data_rank and kind != "set_aside":
            return
        if kind == "step":
            row |= pace(policy.facts, config, shapes, row["step_s"])
        written = metrics.record.remote(kind, {**row, "stage": number})
        if kind == "step":  # a step that is saved has its row, whatever dies
            ray.get(written)

    with writer:  # its thread ends with the stage
        learn_steps(
            learner,
            steps=position.first_step + config.stages[0].steps,
            first_step=position.first_step,
            first_version=position.version,
            publish_every=config.learner.publish_every,
            checkpoint_every=config.learner.checkpoint_every,
            checkpoint_seconds=60 * config.learner.checkpoint_every_minutes,
            take=take,
            publish=publish,
            save=save,
            record=record,
            agree=mesh.agree,
            teacher=learner.reference_snapshot if stage.kind == "distill" else None,
            guard=Guards(config.learner, objective.guarded).see,
            evaluate=evaluate,
            evaluate_every=config.evaluation.every,
            take_back=take_back,
            set_aside=set_aside,
            held=held,
        )
    for saving in writing:
        saving.result()


def pace(facts: BundleFacts, config: RunConfig, shapes: Sequence[tuple[int, ...]], seconds: float) -> dict[str, float]:
    """Tokens that the group passes through policy and reference each second, and what each worker computes for them.

    shapes: of the latents of the pairs of a step. Without what gradient checkpointing computes twice.
    """
    tokens, videos = [facts.tokens(shape) for shape in shapes], 2 * config.learner.timesteps.count
    text, workers = config.model.max_text_tokens, config.learner.num_workers
    flops = sum(count * forward_flops(facts, each, text) for each, count in Counter(tokens).items())
    computed, passed = 4 * videos * flops / workers, 2 * videos * sum(tokens)
    return {"tokens_per_s": passed / seconds, "flops_per_s_of_worker": computed / seconds}


class Best:
    """The best adapter of a stage, as a folder: also a run that goes on knows it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def offer(self, value: float | None, step: int, export: Callable[[Path], None]) -> None:
        """Keeps the adapter that `export` writes if its value is larger than that of the one that is kept."""
        file = self._folder / BEST_FILE
        held = json.loads(file.read_text(encoding="utf-8"))["value"] if file.is_file() else -math.inf
        if value is not None and value > held:
            with whole_folder(self._folder, replace=True) as unfinished:
                export(unfinished)
                (unfinished / BEST_FILE).write_text(json.dumps({"step": step, "value": value}), encoding="utf-8")

    def load(self, policy: VideoPolicy) -> None:
        """Into the policy, if there is one."""
        if self._folder.is_dir():
            load_lora(self._folder, policy.transformers)
