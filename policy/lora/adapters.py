"""LoRA adapters "policy" and "reference" on every expert, over one frozen base.

The reference of a later stage is a frozen copy of the policy as that stage found it; in the first stage there is none,
and the reference is the base itself. There is never a second copy of a transformer.

Masters are float32 whatever the base's dtype; an adapter is multiplied in the dtype of its input, which is the base's
(peft would make the input and output of every layer float32). Switching never goes through
peft's or diffusers' `set_adapter`, `disable_adapters` or `enable_adapters`: those flip `requires_grad` on the way.

Files are diffusers' own format, one per expert because diffusers cannot tell two experts apart in one:
`pipe.load_lora_weights(folder)` for `transformer`, and for the second expert
`pipe.load_lora_weights(f"{folder}/transformer_2", load_into_transformer_2=True)`.
"""

# pyright: reportPrivateImportUsage=false

import copy
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from peft import LoraConfig as PeftConfig
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from configs.sections import LoraConfig
from policy.lora.files import LORA_FILE, Layer, adapter_files, check_layers, read_layers

POLICY, REFERENCE = "policy", "reference"

Transformers = Mapping[str, WanTransformer3DModel]
"""Expert name (`transformer`, `transformer_2`) -> model."""


def add_adapters(transformers: Transformers, lora: LoraConfig, *, seed: int) -> None:
    """Put a new, trainable adapter "policy" on every expert; outputs are unchanged until it is trained.

    `seed` gives the first weights of A (B starts at 0), so that learner and generators begin alike without a swap.
    Raises ValueError naming the target of `learner.lora.targets` that matches no linear layer of an expert.
    """
    for expert, transformer in transformers.items():
        _check_targets(expert, transformer, lora)
    generator = torch.Generator("cpu").manual_seed(seed)
    for transformer in transformers.values():
        _inject(transformer, _peft_config(lora), POLICY)
        for name, parameter in sorted(_named(transformer, POLICY).items()):
            if "lora_A" in name:
                fresh = torch.empty(parameter.shape)
                nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                parameter.data.copy_(fresh)
        _activate(transformer)


def policy_parameters(transformers: Transformers) -> list[tuple[str, nn.Parameter]]:
    """The float32 masters to optimise, as (`expert.name`, parameter), in a fixed order."""
    return list(_parameters(transformers, POLICY).items())


@contextmanager
def reference_pass(transformers: Transformers) -> Iterator[None]:
    """Inside, forward passes are the reference's and have no gradient; afterwards everything is as it was.

    Uses the adapter "reference" if there is one, else no adapter. No `requires_grad` flag is touched. Do not enter
    it between a checkpointed forward pass and its backward pass: the recomputation would be the reference's.
    """
    layers = [layer for transformer in transformers.values() for layer in _layers(transformer)]
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    try:
        for layer in layers:
            layer._active_adapter, layer._disable_adapters = [REFERENCE], REFERENCE not in layer.lora_A
        with torch.no_grad():
            yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


def adapter_state(transformers: Transformers, adapter: str = POLICY) -> dict[str, Tensor]:
    """A copy of an adapter: `transformer.blocks.0.attn1.to_q.lora_A.weight` -> float32; empty if there is none."""
    return {name: parameter.detach().clone() for name, parameter in _parameters(transformers, adapter).items()}


@torch.no_grad()
def load_adapter_state(transformers: Transformers, state: Mapping[str, Tensor]) -> int:
    """Overwrite the adapter "policy" in place; returns how many parameters were overwritten.

    All of it or nothing: raises ValueError that names the first missing, unexpected or misshapen parameter before any
    is written.
    """
    parameters = _parameters(transformers, POLICY)
    _check_state(parameters, state)
    for name, parameter in parameters.items():
        parameter.copy_(state[name])
    return len(parameters)


@torch.no_grad()
def freeze_as_reference(transformers: Transformers) -> None:
    """Copy the adapter "policy" into a frozen adapter "reference" (made if it is not there); the policy goes on."""
    for transformer in transformers.values():
        if REFERENCE not in transformer.peft_config:
            _inject(transformer, copy.deepcopy(transformer.peft_config[POLICY]), REFERENCE)
        source = _named(transformer, POLICY)
        for name, parameter in _named(transformer, REFERENCE).items():
            parameter.copy_(source[name])
        _activate(transformer)


def save_lora(
    folder: str | Path, transformers: Transformers, lora: LoraConfig, *, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write the adapter "policy" as diffusers writes LoRA, with the metadata without which its alpha is lost.

    `lora`: what the adapters were made with. `state`: an earlier `adapter_state`, in place of the adapter as it is now.
    Raises OSError if the folder cannot be written.
    """
    state = state or adapter_state(transformers)
    # peft keeps the targets as a set: sorted, the same adapter is the same file in every process.
    metadata = {**_peft_config(lora).to_dict(), "target_modules": sorted(lora.targets)}
    for expert, transformer in transformers.items():
        weights: dict[str, Any] = {name: state[f"{expert}.{name}"] for name in _named(transformer, POLICY)}
        place = _place(folder, expert)
        place.mkdir(parents=True, exist_ok=True)
        WanPipeline.save_lora_weights(
            place, transformer_lora_layers=weights, transformer_lora_adapter_metadata=metadata, weight_name=LORA_FILE
        )


def load_lora(place: str | Path, transformers: Transformers) -> int:
    """Put an adapter from files into the new adapter "policy"; returns how many parameters were overwritten.

    It computes what the files say, whatever tool wrote them (`policy/lora/files.py`) and however small their rank: the
    rows of A that the files lack keep their first weights, and the columns of B that they lack are 0. So is B of the
    layers that they do not adapt. B is multiplied by the files' alpha / rank over the model's. What `save_lora` wrote
    for the same rank and alpha comes back bit for bit.

    Raises FileNotFoundError that names the file that is missing, and ValueError that names the file and its rank if
    that is larger, its layers if `learner.lora.targets` or the model lacks them, or its keys if they are not read.
    """
    return load_adapter_state(transformers, check_lora(place, transformers))


@torch.no_grad()
def check_lora(place: str | Path, transformers: Transformers) -> dict[str, Tensor]:
    """The state that `load_lora` would load, named as in `adapter_state`. Raises as `load_lora` does."""
    files = adapter_files(Path(place))
    if missing := [expert for expert in transformers if expert not in files]:
        wanted = _place(place, missing[0]) / LORA_FILE
        raise FileNotFoundError(f"no adapter file {wanted} for expert {missing[0]}, nor one that another tool named")
    if extra := [file for expert, file in files.items() if expert not in transformers]:
        raise ValueError(f"{extra[0]}: the adapter is one for two experts, and the model has one")
    state = adapter_state(transformers)
    for expert, transformer in transformers.items():
        lora, layers = transformer.peft_config[POLICY], read_layers(files[expert])
        _check_fit(files[expert], layers, transformer, expert)
        own = {name: tensor for name, tensor in state.items() if name.startswith(f"{expert}.")}
        for name, tensor in own.items():
            layer = layers.get(name.removeprefix(f"{expert}.").rsplit(".lora_", 1)[0])
            if "lora_B" in name:
                tensor.zero_()
            if layer is not None and "lora_A" in name:
                tensor[: len(layer.down)] = layer.down
            elif layer is not None:
                tensor[:, : len(layer.down)] = layer.up * (layer.scale / (lora.lora_alpha / lora.r))
    return state


def _check_fit(file: Path, layers: Mapping[str, Layer], transformer: WanTransformer3DModel, expert: str) -> None:
    """Raises ValueError unless the adapter "policy" has all layers, at no smaller rank."""
    shapes = {
        name.removesuffix(".base_layer"): tuple(module.weight.shape)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    }
    check_layers(file, layers, shapes, of=expert)
    adapted = _named(transformer, POLICY)
    new = {name for name in layers if f"{name}.lora_A.weight" not in adapted}
    if lacking := sorted({re.sub(r"^blocks\.\d+\.", "", name) for name in new}):
        raise ValueError(f"{file}: it adapts layers that learner.lora.targets lacks; add {', '.join(lacking)} there")
    rank, most = max(len(layer.down) for layer in layers.values()), transformer.peft_config[POLICY].r
    if rank > most:
        raise ValueError(f"{file}: its rank is {rank}, the model's is {most}: set learner.lora.rank={rank} (or more)")


def _place(folder: str | Path, expert: str) -> Path:
    return Path(folder) if expert == "transformer" else Path(folder) / expert


def _peft_config(lora: LoraConfig) -> PeftConfig:
    return PeftConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))


def _inject(transformer: WanTransformer3DModel, config: PeftConfig, adapter: str) -> None:
    """A float32 adapter of that name; which adapter is active afterwards is for the caller to set.

    It lies where the adapter "policy" lies: the base of an idle expert may be elsewhere.
    """
    transformer.add_adapter(config, adapter)
    beside = next(iter(_named(transformer, POLICY).values()))
    for layer in _layers(transformer):
        layer.cast_input_dtype_enabled = False
        for matrices in (layer.lora_A, layer.lora_B):
            matrices[adapter] = _Master(matrices[adapter].get_parameter("weight"), beside.device)


class _Master(nn.Module):
    """A float32 matrix that multiplies in the dtype of its input."""

    def __init__(self, weight: Tensor, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().to(device, torch.float32))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return functional.linear(hidden_states, self.weight.to(hidden_states.dtype))


def _activate(transformer: WanTransformer3DModel) -> None:
    """Forward passes go through "policy" alone, which alone is trainable."""
    for layer in _layers(transformer):
        layer._active_adapter, layer._disable_adapters = [POLICY], False
    transformer.requires_grad_(False)
    for parameter in _named(transformer, POLICY).values():
        parameter.requires_grad_(True)


def _named(transformer: WanTransformer3DModel, adapter: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters by the names diffusers saves them under (without the adapter's own name)."""
    return {
        name.replace(f".{adapter}.", "."): parameter
        for name, parameter in transformer.named_parameters()
        if f".lora_A.{adapter}." in name or f".lora_B.{adapter}." in name
    }


def _parameters(transformers: Transformers, adapter: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters on all experts, `expert.name` -> parameter, in a fixed order."""
    return {
        f"{expert}.{name}": parameter
        for expert, transformer in transformers.items()
        for name, parameter in _named(transformer, adapter).items()
    }


def _layers(transformer: WanTransformer3DModel) -> list[LoraLayer]:
    return [module for module in transformer.modules() if isinstance(module, LoraLayer)]


def _check_targets(expert: str, transformer: WanTransformer3DModel, lora: LoraConfig) -> None:
    linear = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in lora.targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = sorted({name.removeprefix("blocks.0.") for name in linear if name.startswith("blocks.0.")})
            raise ValueError(
                f"learner.lora.targets: {target!r} matches no linear layer of {expert}; a block has {', '.join(known)}"
            )


def _check_state(parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing, unexpected = sorted(set(parameters) - set(state)), sorted(set(state) - set(parameters))
    if missing or unexpected:
        raise ValueError(
            f"the adapter does not fit: {len(missing)} parameters are missing (first: {missing[:1]}), "
            f"{len(unexpected)} are unexpected (first: {unexpected[:1]}); it was made with other learner.lora.targets "
            "or for another model"
        )
    for name, parameter in parameters.items():
        if state[name].shape != parameter.shape:
            raise ValueError(
                f"the adapter does not fit: {name} has shape {list(state[name].shape)}, the model's has "
                f"{list(parameter.shape)}; it was made with another learner.lora.rank or for another model"
            )
