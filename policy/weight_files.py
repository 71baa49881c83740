"""Whether the weight files of a folder are a model's own: known from their headers, before a weight is loaded."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

READ_DTYPES = ("F64", "F32", "F16", "BF16")
POINTER = b"version https://git-lfs"
"""What a file begins with that stands for another one, which was not downloaded."""


@dataclass(frozen=True)
class Held:
    """A tensor as the header of its file describes it. `dtype`: in safetensors' words, such as `BF16`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError, and ValueError that names the file if it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: the folder is not complete; download it again") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_headers(folder: Path, name: str) -> dict[str, Held]:
    """The tensors of the file `name`, or of the shards that `name.index.json` lists, by their names.

    Raises FileNotFoundError if a file is missing, and ValueError that names the file if one is a pointer or is not
    whole, or if the index and the shards do not hold the same tensors.
    """
    index = folder / f"{name}.index.json"
    if not index.is_file():
        return _header(folder / name)
    if (folder / name).is_file():
        raise ValueError(f"{folder} holds both {name} and {index.name}: remove the one that is not meant")
    places: Any = read_json(index).get("weight_map")
    shards = {*places.values()} if isinstance(places, dict) else set()
    if not shards or {Path(str(file)).name for file in shards} != shards:
        raise ValueError(f"{index}: weight_map does not say for each tensor which file of this folder holds it")
    found: dict[str, Held] = {}
    for file in sorted(shards):
        found |= _header(folder / file)
    for tensor in sorted(places.keys() | found.keys()):
        here = found[tensor].file.name if tensor in found else "no shard"
        if here != places.get(tensor):
            raise ValueError(f"{index}: {tensor} is in {here}, the index says {places.get(tensor)}; download it again")
    return found


def check_fits(
    held: Mapping[str, Held], shapes: Mapping[str, tuple[int, ...]], *, of: str, tied: Collection[tuple[str, str]] = ()
) -> None:
    """Raises ValueError that names file and tensor unless the files hold exactly the tensors that a model has.

    `shapes`: name -> shape of each tensor of the model. `of`: the model in words. `tied`: pairs of names of one tensor,
    of which a file may lack either.
    """
    for name in shapes:
        if name in held and held[name].dtype not in READ_DTYPES:
            raise ValueError(
                f"{held[name].file}: {name} is {held[name].dtype}: quantised weights are not read; use the float32, "
                "float16 or bfloat16 weights of the model"
            )
    spare = {name for a, b in tied for name, other in ((a, b), (b, a)) if other in held}
    missing = [name for name in shapes if name not in held and name not in spare]
    unexpected = [name for name in held if name not in shapes]
    if missing or unexpected:
        some = [f"{len(missing)} of its tensors are missing (the first is {missing[0]})"] if missing else []
        some += [f"{len(unexpected)} are none of its tensors (the first is {unexpected[0]})"] if unexpected else []
        file = held[unexpected[0]].file if unexpected else next((each.file for each in held.values()), "no file")
        raise ValueError(
            f"{file}: not the weights of {of}: {', '.join(some)}. They are another model's, quantised, or saved "
            "under other names: use the folder as it was published for diffusers or transformers"
        )
    for name, shape in shapes.items():
        if name in held and held[name].shape != shape:
            raise ValueError(
                f"{held[name].file}: {name} has shape {list(held[name].shape)}, {of} has {list(shape)} there: config "
                "and weights are of different models"
            )


def check_weights(held: Mapping[str, Held], model: Any, config: Path) -> None:
    """Raises as `check_fits` does unless the files hold what `model` has, a torch module made of the file `config`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    held = {name: each for name, each in held.items() if name in shapes or not any(re.search(r, name) for r in ignored)}
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    check_fits(held, shapes, of=f"the {type(model).__name__} that {config} describes", tied=tied.items())


def load_whole(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind.from_pretrained(folder)` of a diffusers or transformers class, from safetensors alone.

    Raises ValueError that names the first tensor if the files do not hold exactly what the model has: either library
    would leave a tensor that is missing at random values, and only log it.
    """
    options = {"output_loading_info": True, "local_files_only": True, "use_safetensors": True, **options}
    try:
        model, found = kind.from_pretrained(folder, **options)
    except NotImplementedError:  # a missing tensor cannot be put on a device; read without one, its name is found
        model, found = kind.from_pretrained(folder, **(options | {"device_map": None}))
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        for tensor in sorted(map(str, found.get(what) or ())):
            raise ValueError(f"{folder}: not the weights of its config.json: {what.replace('_', ' ')}: {tensor}")
    return model


def _header(file: Path) -> dict[str, Held]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: the folder is incomplete (only safetensors weights are read)")
    with file.open("rb") as opened:
        if opened.read(len(POINTER)) == POINTER:
            raise ValueError(
                f"{file} is a pointer (git-lfs), not the weights; download the folder again, or git lfs pull"
            )
    try:
        with safe_open(file, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: Held(file, each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is not a whole safetensors file ({error}); download it again") from error
