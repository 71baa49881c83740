import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import AutoProcessor

from buffers.records import Domain
from ranker.frames import sample_frames
from ranker.judges.checkpoint import check_checkpoint, check_descriptions, checkpoint_version, longest_prompt
from ranker.questions import Question, model_inputs
from ranker.rubric import domain_prompt

JUDGE = Path("examples/miniature/weights/judge")


def checkpoint(folder: Path, **config) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_vl", **config}))
    (folder / "tokenizer.json").touch()
    save_file({"x": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^path: no folder .*nowhere; it must be a local Qwen3-VL"):
        check_checkpoint(tmp_path / "nowhere", key="path")


@pytest.mark.parametrize("kind", ["llama", "qwen2_5_vl", "qwen3_vl_moe"])
def test_another_model_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"model_type '{kind}'; a Qwen3-VL checkpoint has 'qwen3_vl'"):
        check_checkpoint(checkpoint(tmp_path / "other", model_type=kind))


@pytest.mark.parametrize("text", ["not json", "[]", '{"model_type": null}'])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    folder = checkpoint(tmp_path / "broken")
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"ranker\.path"):
        check_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path / "partial")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.removeprefix("model")):
        check_checkpoint(folder)


def test_the_version_follows_the_weights(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "judge")
    before = checkpoint_version(folder)
    assert before == checkpoint_version(folder)
    name, _, digest = before.partition("@")
    assert name == "judge" and len(digest) == 8 and int(digest, 16) >= 0
    save_file({"x": np.array([0, 0, 1], np.float32)}, folder / "model.safetensors")
    assert checkpoint_version(folder) != before


@pytest.mark.parametrize("domain", ["human", "general"])
@pytest.mark.parametrize(("frames", "height", "width"), [(9, 32, 32), (40, 32, 64), (7, 50, 97), (2, 128, 128)])
def test_the_longest_prompt_is_what_the_processor_makes(domain: Domain, frames: int, height: int, width: int) -> None:
    footage = sample_frames(np.zeros((frames, height, width, 3), np.uint8), fps=8.0, count=frames)
    inputs = model_inputs(
        AutoProcessor.from_pretrained(JUDGE), [Question(domain, footage, footage)], max_pixels_per_video=2**24
    )
    bound = longest_prompt(JUDGE, frames=frames, height=height, width=width, fps=8.0, max_pixels_per_video=2**24)
    assert bound >= inputs["input_ids"].shape[1] + 1
    if frames <= 16:  # every timestamp to 2 seconds is one token of this tokenizer
        assert bound == inputs["input_ids"].shape[1] + 1


def test_the_longest_prompt_counts_what_is_said_of_a_given_first_frame() -> None:
    footage = sample_frames(np.zeros((9, 32, 32, 3), np.uint8), fps=8.0, count=9)
    asked = [Question(domain, footage, footage, framed=True) for domain in get_args(Domain)]
    processor: Any = AutoProcessor.from_pretrained(JUDGE)
    size: dict[str, Any] = {"frames": 9, "height": 32, "width": 32, "fps": 8.0}
    made = model_inputs(processor, asked, max_pixels_per_video=2**24)["input_ids"].shape[1] + 1
    assert longest_prompt(JUDGE, **size, max_pixels_per_video=2**24, framed=True) == made
    assert longest_prompt(JUDGE, **size, max_pixels_per_video=2**24) < made


def test_the_pixel_budget_bounds_the_prompt() -> None:
    footage = sample_frames(np.zeros((16, 320, 320, 3), np.uint8), fps=8.0, count=16)
    inputs = model_inputs(
        AutoProcessor.from_pretrained(JUDGE), [Question("human", footage, footage)], max_pixels_per_video=2**18
    )
    bound = longest_prompt(JUDGE, frames=16, height=320, width=320, fps=8.0, max_pixels_per_video=2**18)
    unbound = longest_prompt(JUDGE, frames=16, height=320, width=320, fps=8.0, max_pixels_per_video=2**24)
    assert inputs["input_ids"].shape[1] + 1 <= bound < unbound / 3


def test_a_folder_without_a_vision_config_says_so(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "judge")
    shutil.copy(JUDGE / "tokenizer.json", folder)
    with pytest.raises(ValueError, match=r"ranker\.path: .*judge is no Qwen3-VL checkpoint folder \(KeyError"):
        longest_prompt(folder, frames=9, height=32, width=32, fps=8.0, max_pixels_per_video=2**20)


@pytest.mark.parametrize("text", ["a cup " * 300, "\u8d70" * 400])
def test_the_longest_description_is_measured_by_the_checkpoints_tokenizer(text: str) -> None:
    tokenizer = AutoProcessor.from_pretrained(JUDGE).tokenizer
    tokens = len(tokenizer.encode(domain_prompt(text), add_special_tokens=False)) + 1
    check_descriptions(JUDGE, ["a cup", text], tokens=tokens)
    with pytest.raises(ValueError, match=rf"takes {tokens:,} tokens; ranker\.max_model_len = {tokens - 1}\.") as raised:
        check_descriptions(JUDGE, ["a cup", text], tokens=tokens - 1)
    assert len(str(raised.value)) < 400
