"""Adapter files of any tool as low-rank layers, and what becomes of the layers: ComfyUI's keys, or fused weights.

Three kinds of keys are read:

    transformer.blocks.0.attn1.to_q.lora_A.weight               diffusers
    diffusion_model.blocks.0.self_attn.q.lora_down.weight       ComfyUI
    lora_unet_blocks_0_self_attn_q.lora_down.weight             musubi-tuner

The last two have the names of Wan's own repository. diffusers' converter is not asked: it drops keys that it does not
know, wants every layer of every block in musubi's files, and multiplies by alpha in the file's own precision.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from policy.weight_files import READ_DTYPES, read_headers

LORA_FILE = "pytorch_lora_weights.safetensors"

_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}
ORIGINAL = {
    **{f"attn1.{ours}": f"self_attn.{theirs}" for ours, theirs in _ATTENTION.items()},
    **{f"attn2.{ours}": f"cross_attn.{theirs}" for ours, theirs in _ATTENTION.items()},
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    **{f"condition_embedder.{of}_embedder.linear_1": f"{of}_embedding.0" for of in ("text", "time")},
    **{f"condition_embedder.{of}_embedder.linear_2": f"{of}_embedding.2" for of in ("text", "time")},
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "proj_out": "head.head",
}
"""Linear layer of a Wan transformer (within its block, if it is in one) in diffusers -> in Wan's own repository."""

_OURS = {name: ours for ours, theirs in ORIGINAL.items() for name in (ours, theirs, theirs.replace(".", "_"))}
_STEM = re.compile(r"(?:transformer\.|diffusion_model\.|lora_unet_)(?:blocks[._](\d+)[._])?(.+)")
_DOWN, _UP = (".lora_A.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_up.weight")
_PARTS = dict.fromkeys(_DOWN, "down") | dict.fromkeys(_UP, "up") | {".alpha": "alpha"}


class Layer(NamedTuple):
    """What an adapter adds to a linear layer's weight: `scale * up @ down`.

    down: float32 `[rank, in]`; up: float32 `[out, rank]`; alpha: the scale times the rank.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / len(self.down)


def adapter_files(place: Path) -> dict[str, Path]:
    """Expert -> its file, for the experts that have one in the folder `place`; empty if it holds no adapter.

    Looked for, in this order: diffusers' name (the second expert's in `transformer_2/`), one file with `high_noise` and
    one with `low_noise` in its name, and a single .safetensors file. `place` may be one expert's file itself.
    """
    if place.is_file():
        return {"transformer": place}
    ours = {"transformer": place / LORA_FILE, "transformer_2": place / "transformer_2" / LORA_FILE}
    if held := {expert: file for expert, file in ours.items() if file.is_file()}:
        return held
    files = sorted(place.glob("*.safetensors"))
    high, low = ([file for file in files if noise in file.name] for noise in ("high_noise", "low_noise"))
    if len(high) == len(low) == 1:
        return {"transformer": high[0], "transformer_2": low[0]}
    return {"transformer": files[0]} if len(files) == 1 else {}


def read_layers(file: Path) -> dict[str, Layer]:
    """Linear layer by its name in diffusers -> what the adapter file adds to it.

    alpha is the layer's own key, else that of diffusers' metadata, else the rank. Raises ValueError that names the file
    and the keys which are not LoRA weights of a linear layer of Wan, and FileNotFoundError or ValueError if the file is
    missing, or not whole.
    """
    keys: dict[str, dict[str, str]] = {}
    refused = []
    for key, held in read_headers(file.parent, file.name).items():
        suffix = next((suffix for suffix in _PARTS if key.endswith(suffix)), "")
        module = _module(key.removesuffix(suffix)) if suffix else None
        readable = held.dtype in READ_DTYPES or suffix == ".alpha"  # some tools write alpha as an integer
        if module is None or not readable or _PARTS[suffix] in keys.get(module, ()):
            refused.append(f"{key} ({held.dtype})")
        else:
            keys.setdefault(module, {})[_PARTS[suffix]] = key
    if refused or not keys:
        raise ValueError(
            f"{file}: {len(refused)} of its keys are no LoRA weights of Wan's linear layers ({_some(refused)}); only "
            "float32, float16 or bfloat16 LoRA is read, without biases, norms, differences or DoRA"
        )
    with safe_open(file, framework="pt") as opened:
        alpha = _alpha(file, (opened.metadata() or {}).get("lora_adapter_metadata"))
        layers = {}
        for module, parts in keys.items():
            held = {part: opened.get_tensor(key).float() for part, key in parts.items()}
            down, up = held.get("down", torch.empty(0)), held.get("up", torch.empty(0))
            if down.ndim != 2 or up.ndim != 2 or not 0 < len(down) == up.shape[1]:
                raise ValueError(
                    f"{file}: {module} has the shapes {list(down.shape)} and {list(up.shape)}, want two matrices "
                    "[rank, in] and [out, rank]"
                )
            if (own_alpha := held.get("alpha")) is not None and own_alpha.numel() != 1:
                raise ValueError(f"{file}: {keys[module]['alpha']} has {own_alpha.numel()} values, want one")
            own = own_alpha.item() if own_alpha is not None else alpha
            layers[module] = Layer(down, up, len(down) if own is None else own)
    return layers


def check_layers(file: Path, layers: Mapping[str, Layer], shapes: Mapping[str, tuple[int, ...]], *, of: str) -> None:
    """Raises ValueError that names file and layer unless the model has all `layers`, as wide as they are.

    `shapes`: of the model's weights by the names of their layers, `(out, in)`. `of`: the model in words.
    """
    for module, layer in layers.items():
        found, wanted = (len(layer.up), layer.down.shape[1]), shapes.get(module)
        if wanted is None or found != tuple(wanted):
            has = "no such layer" if wanted is None else f"{list(wanted)} there"
            raise ValueError(
                f"{file}: the adapter does not fit: it changes {module} of shape {list(found)}, {of} has {has}; it was "
                "made for another model"
            )


def save_comfyui(file: Path, layers: Mapping[str, Layer]) -> None:
    """Write the layers with the keys that ComfyUI looks for. Raises OSError if the disk refuses."""
    tensors: dict[str, Tensor] = {}
    for module, layer in layers.items():
        inner = re.sub(r"^blocks\.\d+\.", "", module)
        name = f"diffusion_model.{module.removesuffix(inner)}{ORIGINAL[inner]}"
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = layer.down, layer.up
        tensors[f"{name}.alpha"] = torch.tensor(float(layer.alpha))
    save_file(tensors, file, {"format": "pt"})


def fuse(file: Path, into: Path, layers: Mapping[str, Layer]) -> None:
    """Write the weight file of a transformer, or a shard of it, with the layers added to its weights.

    The sum is made in float32 and rounded to the weight's own dtype. What no layer changes stays bit for bit. Takes the
    memory of one file. Raises OSError if the disk refuses.
    """
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata()
    for name, weight in tensors.items():
        if layer := layers.get(name.removesuffix(".weight")):
            tensors[name] = (weight + layer.scale * (layer.up @ layer.down)).to(weight.dtype)
    save_file(tensors, into, metadata)


def _module(stem: str) -> str | None:
    """The layer's name in diffusers: `blocks.0.attn1.to_q` of `lora_unet_blocks_0_self_attn_q`."""
    match = _STEM.fullmatch(stem)
    if match is None or match[2] not in _OURS:
        return None
    return _OURS[match[2]] if match[1] is None else f"blocks.{int(match[1])}.{_OURS[match[2]]}"


def _alpha(file: Path, metadata: str | None) -> float | None:
    """Of diffusers' metadata, if there is one. Raises ValueError if the scale is not `alpha / rank` of all layers."""
    config = json.loads(metadata or "{}")
    for key in ("alpha_pattern", "use_rslora", "use_dora"):
        if config.get(f"transformer.{key}"):
            raise ValueError(f"{file}: its metadata has {key}: only LoRA of one alpha, scaled by alpha / rank, is read")
    return config.get("transformer.lora_alpha")


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:6]) + (", ..." if len(names) > 6 else "")
