"""Where a run stands, as a folder that is written whole: from it the same command goes on after a stop or a kill.

    checkpoints/1-online/00000120/state.safetensors  adapter, reference, optimizer, what generators hold; stage, cursors
    checkpoints/1-online/00000120/adapter/           the same adapter, as diffusers loads it

The pairs that were generated are not in it. They are in the buffer's folder, which commits each request with the pairs
that it brought, the batches that were drawn, and the counts (`buffers/replay.py`). So a run that goes on loses no pair:
it takes the last whole state, repeats the steps that came after it with the same batches, and asks again for the
requests that were not finished. `buffer` in the state says how far that folder must be at least.
"""

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from buffers.records import Snapshot
from buffers.tensors import snapshot_of
from learner.checkpoint import LearnerState, load_checkpoint, save_checkpoint
from media.whole import step_folder, step_folders, whole_folder

log = logging.getLogger(__name__)

STATE, ADAPTER = "state.safetensors", "adapter"


@dataclass(frozen=True)
class Position:
    """stage: number of the stage that is being run. first_step: the run's step at which that stage began.

    version: the policy version of the adapter in the state. buffer: `ReplayBuffer.cursor` at that moment. stopped:
    whether a guard has ended the stage before its last step.
    """

    stage: int
    first_step: int
    version: int
    buffer: dict[str, int]
    stopped: bool = False


@dataclass(frozen=True)
class RunState:
    """Everything that a run needs to go on."""

    position: Position
    learner: LearnerState

    @property
    def step(self) -> int:
        """Optimizer steps of the whole run so far."""
        return self.learner.steps


def save(root: Path, state: RunState, *, export: Callable[[Path], None]) -> Path:
    """Commits the state and returns its folder; the one before it stays, older ones are deleted.

    root: the folder of the stage. export: writes the adapter, as diffusers loads it, into the folder it is given. A
    state of this step that is there already is replaced: a run that goes on repeats steps. Raises OSError if the disk
    refuses; then nothing is changed.
    """
    with step_folder(root, state.step) as unfinished:
        save_checkpoint(unfinished / STATE, replace(state.learner, run=asdict(state.position)))
        export(unfinished / ADAPTER)
    return step_folders(root)[-1]


def folders(root: Path) -> list[Path]:
    """The folders of all whole states of a run, the oldest first. root: `checkpoints`, with a folder for each stage."""
    stages = sorted(root.glob("[0-9]*-*"), key=lambda stage: int(stage.name.partition("-")[0]))
    return [folder for stage in stages for folder in step_folders(stage)]


def keep_adapter(root: Path, folder: Path) -> None:
    """The newest state's adapter, in diffusers' format, becomes `folder`; nothing changes if there is no state."""
    states = folders(root)
    if states:
        with whole_folder(folder, replace=True) as unfinished:
            shutil.copytree(states[-1] / ADAPTER, unfinished, dirs_exist_ok=True)


def newest(root: Path) -> RunState | None:
    """The newest whole state below `root`, or None if there is none. A damaged one is passed over and logged.

    Raises ValueError if there are states and all of them are damaged.
    """
    problems = []
    for folder in reversed(folders(root)):
        try:
            return load(folder)
        except (ValueError, OSError, TypeError) as error:
            log.warning("%s is passed over: %s", folder, error)
            problems.append(str(error))
    if problems:
        raise ValueError(f"{root}: no state of the run can be read: {'; '.join(problems)}")
    return None


def load(folder: Path) -> RunState:
    """The state in one folder. Raises ValueError or OSError that names what is missing or damaged."""
    learner = load_checkpoint(folder / STATE)
    return RunState(Position(**learner.run), learner)


def published(state: RunState) -> Snapshot | None:
    """What generators held when the state was saved, if that is not its adapter."""
    held = state.learner.published
    return snapshot_of(state.position.version, held) if held else None


def snapshot(state: RunState) -> Snapshot:
    """The state's adapter as generators take it."""
    return snapshot_of(state.position.version, state.learner.adapter)
