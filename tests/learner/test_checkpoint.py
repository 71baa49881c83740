import os

import pytest
import torch

from learner import checkpoint
from learner.checkpoint import LearnerState, load_checkpoint, save_checkpoint


def make_state():
    torch.manual_seed(1)
    tensors = [{"transformer.blocks.0.to_q.lora_A.weight": torch.randn(2, 3)} for _ in range(2)]
    tensors[0]["transformer_2.blocks.0.to_q.lora_B.weight"] = torch.randn(3, 2)
    optimizer = {f"{slot}/transformer.blocks.0.to_q.lora_A.weight": torch.randn(2, 3) for slot in ("exp_avg", "step")}
    published = {name: tensor + 1 for name, tensor in tensors[0].items()}
    return LearnerState(5, 7, tensors[0], tensors[1], optimizer, published, {"stage": 2, "cursors": [1, 2]})


def test_what_was_saved_is_loaded_and_nothing_else_is_left(tmp_path):
    state = make_state()
    save_checkpoint(tmp_path / "step-7", state)
    loaded = load_checkpoint(tmp_path / "step-7")
    assert (loaded.seed, loaded.steps, loaded.run) == (5, 7, state.run)
    for field in ("adapter", "reference", "optimizer", "published"):
        wanted, found = getattr(state, field), getattr(loaded, field)
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[key], wanted[key]) and found[key].dtype == wanted[key].dtype for key in wanted)
    assert sorted(os.listdir(tmp_path)) == ["step-7"]


@pytest.mark.parametrize("harm", ["truncated", "emptied", "flipped", "header", "facts", "removed"])
def test_a_checkpoint_that_is_not_whole_is_never_loaded(tmp_path, harm):
    file = tmp_path / "step"
    save_checkpoint(file, make_state())
    content = file.read_bytes()
    flipped = {
        "truncated": content[: len(content) // 2],
        "emptied": b"",
        "flipped": content[:-3] + bytes([content[-3] ^ 0xFF]) + content[-2:],
        "header": content[:20] + bytes([content[20] ^ 0xFF]) + content[21:],
        "facts": content.replace(b'steps\\": 7', b'steps\\": 8'),
    }
    assert content not in flipped.values()
    if harm == "removed":
        file.unlink()
    else:
        file.write_bytes(flipped[harm])
    with pytest.raises(FileNotFoundError if harm == "removed" else ValueError, match="step"):
        load_checkpoint(file)


def test_an_unknown_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 9)
    save_checkpoint(tmp_path / "step", make_state())
    monkeypatch.undo()
    with pytest.raises(ValueError, match="another checkpoint format; this version reads 5"):
        load_checkpoint(tmp_path / "step")


def test_no_such_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_checkpoint_is_never_overwritten(tmp_path):
    save_checkpoint(tmp_path / "step", make_state())
    with pytest.raises(FileExistsError, match="step"):
        save_checkpoint(tmp_path / "step", make_state())
    assert load_checkpoint(tmp_path / "step").steps == 7


@pytest.mark.parametrize("failing", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_nothing_behind(tmp_path, monkeypatch, failing):
    written = []

    def half(tensors, path, metadata):
        path.write_bytes(b"half a checkpoint")
        written.append(path)
        raise failing

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(type(failing)):
        save_checkpoint(tmp_path / "step", make_state())
    assert written and os.listdir(tmp_path) == []


def test_a_file_that_a_crash_left_unfinished_is_not_a_checkpoint(tmp_path, monkeypatch):
    def die(*_):
        raise SystemExit

    monkeypatch.setattr("media.whole.os.replace", die)
    monkeypatch.setattr(checkpoint.Path, "unlink", lambda *_, **__: None)  # killed: nothing is cleaned up
    with pytest.raises(SystemExit):
        save_checkpoint(tmp_path / "step", make_state())
    assert os.listdir(tmp_path) == ["step.tmp"]
    with pytest.raises(FileNotFoundError, match="step"):
        load_checkpoint(tmp_path / "step")
