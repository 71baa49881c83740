"""Headers of weight files against what a model has; the files are real safetensors files, broken one at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from policy.weight_files import check_fits, read_headers

NAME = "model.safetensors"
SHAPES = {"a.weight": (3, 2), "b.weight": (4,)}


def write(file: Path, dtype: torch.dtype = torch.float32, /, **tensors: tuple[int, ...]) -> None:
    save_file({name.replace("_", "."): torch.zeros(shape, dtype=dtype) for name, shape in tensors.items()}, file)


def write_shards(folder: Path, *shards: dict[str, tuple[int, ...]]) -> Path:
    """`model-00001-of-0000N.safetensors` and so on, and their index."""
    places = {}
    for number, tensors in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write(folder / file, **tensors)
        places |= {name.replace("_", "."): file for name in tensors}
    index = folder / f"{NAME}.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return index


def test_a_header_says_dtype_and_shape(tmp_path: Path) -> None:
    write(tmp_path / NAME, torch.bfloat16, a_weight=(3, 2))
    (held,) = read_headers(tmp_path, NAME).values()
    assert (held.file, held.dtype, held.shape) == (tmp_path / NAME, "BF16", (3, 2))


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a_weight": (3, 2)}, {"b_weight": (4,)})
    held = read_headers(tmp_path, NAME)
    assert {name: each.shape for name, each in held.items()} == SHAPES
    check_fits(held, SHAPES, of="a model")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 567\n", r"model.safetensors is a pointer"),
        (b"", "not a whole safetensors file"),
        (b"<html>404</html>", "not a whole safetensors file .*download it again"),
        (b"PK\x03\x04 a pickle of torch", "not a whole safetensors file"),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_headers(tmp_path, NAME)


@pytest.mark.parametrize("left", [4, 60, 0.5, -1])
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, left: float) -> None:
    write(tmp_path / NAME, a_weight=(30, 20), b_weight=(40,))
    content = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(content[: int(left * len(content)) if isinstance(left, float) else left])
    with pytest.raises(ValueError, match=r"model.safetensors is not a whole safetensors file"):
        read_headers(tmp_path, NAME)


def test_an_index_that_names_a_missing_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a_weight": (3, 2)}, {"b_weight": (4,)})
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"00002-of-00002.safetensors is missing"):
        read_headers(tmp_path, NAME)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"c.weight": "model-00001-of-00001.safetensors"}, "c.weight is in no shard"),
        ({"a.weight": "../model-00001-of-00001.safetensors"}, "weight_map does not say"),
        ({"a.weight": None}, "weight_map does not say"),
        ({}, "weight_map does not say"),
        (["model-00001-of-00001.safetensors"], "weight_map does not say"),
    ],
)
def test_an_index_that_is_not_that_of_its_shards(tmp_path: Path, places: Any, words: str) -> None:
    index = write_shards(tmp_path, {"a_weight": (3, 2)})
    held = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": held | places if places and "c.weight" in places else places}))
    with pytest.raises(ValueError, match=f"index.json: {words}"):
        read_headers(tmp_path, NAME)


def test_a_tensor_that_the_index_leaves_out(tmp_path: Path) -> None:
    index = write_shards(tmp_path, {"a_weight": (3, 2), "b_weight": (4,)})
    index.write_text(json.dumps({"weight_map": {"a.weight": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(ValueError, match=r"b.weight is in model-00001-of-00001.safetensors, the index says None"):
        read_headers(tmp_path, NAME)


def test_two_sets_of_weights_are_one_too_many(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a_weight": (3, 2)})
    write(tmp_path / NAME, a_weight=(3, 2))
    with pytest.raises(ValueError, match="holds both"):
        read_headers(tmp_path, NAME)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a_weight": (3, 2)}, r"1 of its tensors are missing \(the first is b.weight\)"),
        ({"a_weight": (3, 2), "b_weight": (4,), "c": (1,)}, r"1 are none of its tensors \(the first is c\)"),
        ({"x_a_weight": (3, 2), "x_b_weight": (4,)}, r"2 of its tensors .* a.weight\), 2 are none .* x.a.weight\)"),
        ({"a_weight": (2, 3), "b_weight": (4,)}, r"a.weight has shape \[2, 3\], a model has \[3, 2\]"),
    ],
)
def test_other_tensors_are_not_the_model_s(tmp_path: Path, tensors: dict[str, tuple[int, ...]], words: str) -> None:
    write(tmp_path / NAME, **tensors)
    with pytest.raises(ValueError, match=f"{NAME}: .*{words}"):
        check_fits(read_headers(tmp_path, NAME), SHAPES, of="a model")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
def test_quantised_weights_are_named(tmp_path: Path, dtype: torch.dtype) -> None:
    write(tmp_path / NAME, dtype, a_weight=(3, 2), b_weight=(4,))
    with pytest.raises(ValueError, match=r"a.weight is [FIU]8\w*: quantised weights are not read"):
        check_fits(read_headers(tmp_path, NAME), SHAPES, of="a model")


@pytest.mark.parametrize("left_out", ["a.weight", "b.weight"])
def test_of_two_names_of_one_tensor_one_is_enough(tmp_path: Path, left_out: str) -> None:
    shapes = {"a.weight": (4,), "b.weight": (4,), "c.weight": (1,)}
    kept = {name.replace(".", "_"): shape for name, shape in shapes.items() if name != left_out}
    write(tmp_path / NAME, **kept)
    check_fits(read_headers(tmp_path, NAME), shapes, of="a model", tied=[("b.weight", "a.weight")])
