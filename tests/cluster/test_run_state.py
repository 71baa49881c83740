"""The state of a run on disk: written whole, the newest whole one is read, and it brings a learner back bit for bit."""

from pathlib import Path

import pytest
import torch

from buffers.tensors import decode
from cluster import run_state
from cluster.checks.out_folder import different_keys, goes_on
from cluster.run_folder import RunFolder
from cluster.run_state import Position, RunState
from learner.checkpoint import LearnerState
from media.whole import step_folders
from tests.cluster.test_run_folder import small_config


def state(step: int, *, stage: int = 0) -> RunState:
    def tensors() -> dict[str, torch.Tensor]:
        return {"transformer.blocks.0.to_q.lora_A.weight": torch.full((2, 3), float(step))}

    optimizer = {"exp_avg": torch.full((2, 3), float(step))}
    learner = LearnerState(5, step, tensors(), tensors(), optimizer, {}, {})
    return RunState(
        Position(stage, first_step=0, version=step, buffer={"stored": 4 * step, "drawn": step - 1}), learner
    )


def export(folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter.txt").write_text("for people")


def test_the_newest_state_is_read_and_two_are_kept(tmp_path: Path):
    for step in (2, 4, 6):
        run_state.save(tmp_path / "1-online", state(step, stage=1), export=export)
    assert [folder.name for folder in step_folders(tmp_path / "1-online")] == ["00000004", "00000006"]
    newest = run_state.newest(tmp_path)
    assert newest is not None
    assert (newest.step, newest.position) == (6, state(6, stage=1).position)
    learner = newest.learner
    for tensors in (learner.adapter, learner.reference, learner.optimizer):
        (tensor,) = tensors.values()
        assert torch.equal(tensor, torch.full((2, 3), 6.0))
    assert (tmp_path / "1-online" / "00000006" / run_state.ADAPTER / "adapter.txt").read_text() == "for people"


def test_a_damaged_state_is_passed_over_and_all_damaged_ones_are_an_error(tmp_path: Path):
    assert run_state.newest(tmp_path) is None
    for step in (2, 4):
        run_state.save(tmp_path / "1-online", state(step), export=export)
    for step in (4, 2):
        (tmp_path / "1-online" / f"{step:08d}" / run_state.STATE).write_bytes(b"torn")
        if step == 4:
            newest = run_state.newest(tmp_path)
            assert newest is not None and newest.step == 2
    with pytest.raises(ValueError, match="no state of the run can be read"):
        run_state.newest(tmp_path)


def test_a_step_that_is_repeated_replaces_its_state(tmp_path: Path):
    run_state.save(tmp_path / "1-online", state(2), export=export)
    run_state.save(tmp_path / "1-online", state(2, stage=1), export=export)
    newest = run_state.newest(tmp_path)
    assert newest is not None and newest.position.stage == 1


def test_every_stage_has_a_folder_and_the_newest_state_is_that_of_the_last_stage(tmp_path: Path):
    for number, step in ((0, 2), (0, 4), (1, 6), (9, 60), (10, 62)):
        run_state.save(RunFolder(tmp_path).checkpoints_of(number, "online"), state(step, stage=number), export=export)
    newest = run_state.newest(tmp_path / "checkpoints")
    assert newest is not None and (newest.step, newest.position.stage) == (62, 10)
    assert [folder.name for folder in run_state.folders(tmp_path / "checkpoints")] == [
        *("00000002", "00000004", "00000006", "00000060", "00000062")
    ]


def test_a_snapshot_of_a_state_is_its_adapter_under_its_version():
    made = run_state.snapshot(state(3))
    (tensor,) = made.adapter.values()
    assert made.version == 3 and torch.equal(decode(tensor), torch.full((2, 3), 3.0))


def test_the_same_config_goes_on_and_steps_may_grow(tmp_path: Path):
    config = small_config(tmp_path / "run")
    assert not goes_on(config)
    folder = RunFolder(config.out)
    folder.begin(config)
    assert goes_on(config)
    longer = small_config(tmp_path / "run", stages=[{"kind": "online", "steps": 400}])
    assert goes_on(longer)
    folder.begin(longer)
    with pytest.raises(FileExistsError, match=r"already holds a run.*stages\.0\.steps.*out=.*run-2"):
        goes_on(config)  # 400 were written down; fewer are not a run that goes on
    folder.summary_file.write_text('{"complete": true}')
    with pytest.raises(FileExistsError, match=r"it is finished.*Raise stages\.N\.steps or add a stage.*out=.*run-2"):
        goes_on(longer)


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path: Path):
    config = small_config(tmp_path / "run")
    RunFolder(config.out).begin(config)
    other = small_config(tmp_path / "run", seed=1, learner={"beta": 7.0})
    with pytest.raises(FileExistsError, match=r"Different: learner\.beta, seed\."):
        goes_on(other)


def test_keys_that_differ_are_dotted():
    before = {"seed": 0, "stages": [{"steps": 3, "learner": {}}], "model": {"path": "a"}}
    now = {"seed": 0, "stages": [{"steps": 9, "learner": {"beta": 1.0}}], "model": {"path": "b"}, "new": 1}
    assert different_keys(before, now) == ["model.path", "new", "stages.0.learner.beta"]
    assert different_keys(now, now) == []
    assert different_keys(now, {**now, "stages": [*now["stages"], {"steps": 5}]}) == []  # a stage more
    assert different_keys(now, {**now, "stages": []}) == ["stages.0"]
    assert different_keys({"last_stage": 0}, {"last_stage": None}) == []
    assert different_keys({"last_stage": 0}, {"last_stage": 2}) == []
    assert different_keys({"last_stage": None}, {"last_stage": 2}) == ["last_stage"]
    assert different_keys({"shifts": [3.0, 4.0]}, {"shifts": [3.0, 5.0, 6.0]}) == ["shifts.1", "shifts.2"]
