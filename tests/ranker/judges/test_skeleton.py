"""Judge checkpoints as people bring them, each broken in one way."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ranker.judges.checkpoint import check_checkpoint
from ranker.judges.skeleton import check_judge_weights
from tests.inputs import says

JUDGE = Path("examples/miniature/weights/judge")
FILE = "model.safetensors"


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], object]:
    return lambda folder: save_file(change(load_file(folder / FILE)), folder / FILE)


def without(end: str) -> Callable[[Path], object]:
    return weights(lambda held: {name: tensor for name, tensor in held.items() if not name.endswith(end)})


def settings(**keys: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | keys))

    return change


def wider(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["text_config"]["intermediate_size"] *= 2
    (folder / "config.json").write_text(json.dumps(content))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a judge's tensor missing": (
        without("model.language_model.norm.weight"),
        "model.safetensors: not the weights of the Qwen3VLForConditionalGeneration … 1 of its tensors are missing",
    ),
    "a judge's tensors under other names": (
        weights(lambda held: {name.replace("model.visual.", "visual."): tensor for name, tensor in held.items()}),
        "are missing (the first is model.visual. … are none of its tensors (the first is visual.",
    ),
    "a judge in int8": (
        weights(lambda held: {name: t.to(torch.int8) if t.ndim == 2 else t for name, t in held.items()}),
        "is I8: quantised weights are not read",
    ),
    "a judge of another width": (wider, "has shape … config and weights are of different models"),
    "a judge's pointer": (
        lambda folder: (folder / FILE).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "ranker.path: … model.safetensors is a pointer",
    ),
    "half of a judge's file": (
        lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:2_000_000]),
        "ranker.path: … model.safetensors is not a whole safetensors file",
    ),
    "a quantised judge": (
        settings(quantization_config={"quant_method": "awq"}),
        "ranker.path: … config.json has quantization_config; quantised weights are not read",
    ),
    "a judge's config with a text for a section": (
        settings(vision_config="large"),
        "config.json: no Qwen3-VL model can be made of it",
    ),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=list(BROKEN))
def test_what_is_broken_is_named(change: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    folder = shutil.copytree(JUDGE, tmp_path / "judge")
    change(folder)
    with pytest.raises(ValueError) as refused:
        check_checkpoint(folder)
        check_judge_weights(folder)
    assert says(str(refused.value), words), refused.value
    assert str(folder) in str(refused.value)


def test_the_shipped_judge_is_whole() -> None:
    check_checkpoint(JUDGE)
    check_judge_weights(JUDGE)


def test_a_judge_without_its_tied_head_is_whole(tmp_path: Path) -> None:
    folder = shutil.copytree(JUDGE, tmp_path / "judge")
    without("lm_head.weight")(folder)
    check_judge_weights(folder)
