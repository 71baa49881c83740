# pyright: reportPrivateImportUsage=false
"""Keys against ComfyUI's published rule and diffusers' converters; layers against peft's own sums."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs.sections import LoraConfig
from policy.lora.adapters import add_adapters, load_lora, policy_parameters, save_lora
from policy.lora.files import LORA_FILE, Layer, adapter_files, fuse, read_layers, save_comfyui

BLOCKS, WIDTH = 2, 24
EVERYTHING = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "time_proj", "proj_out"]
EVERYTHING += [f"{kind}_embedder.linear_{number}" for kind in ("text", "time") for number in (1, 2)]
OF_IMAGES = ["add_k_proj", "add_v_proj", "image_embedder.ff.net.0.proj", "image_embedder.ff.net.2"]
ATTENTIONS = LoraConfig(rank=4, alpha=8, targets=["to_q", "to_k", "to_v", "to_out.0"])


def transformer(*, images: bool = False) -> WanTransformer3DModel:
    torch.manual_seed(3)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=WIDTH // 2,
        in_channels=36 if images else 16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=40,
        num_layers=BLOCKS,
        rope_max_seq_len=32,
        image_dim=20 if images else None,
        added_kv_proj_dim=WIDTH if images else None,
    ).eval()


def wan_of_comfyui(*, images: bool) -> list[str]:
    """The names of the linear layers in comfy/ldm/wan/model.py: WanModel, model_type t2v or i2v."""
    attention = ["q", "k", "v", "o"]
    block = [f"self_attn.{name}" for name in attention]
    block += [f"cross_attn.{name}" for name in [*attention, *(["k_img", "v_img"] if images else [])]]
    block += ["ffn.0", "ffn.2"]  # nn.Sequential(Linear, GELU, Linear)
    names = [f"blocks.{number}.{name}" for number in range(BLOCKS) for name in block]
    names += ["text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2"]
    names += ["time_projection.1", "head.head", *(["img_emb.proj.1", "img_emb.proj.3"] if images else [])]
    return names


def key_map_of_comfyui(*, images: bool) -> dict[str, str]:
    """comfy/lora.py, model_lora_keys_unet: the stems of a LoRA file that it looks for -> the model's weight."""
    key_map = {}
    for name in wan_of_comfyui(images=images):
        key_map[f"lora_unet_{name.replace('.', '_')}"] = f"diffusion_model.{name}.weight"
        key_map[f"diffusion_model.{name}"] = f"diffusion_model.{name}.weight"
    return key_map


def loaded_by_comfyui(lora: dict[str, Tensor], key_map: dict[str, str]) -> tuple[dict[str, Tensor], set[str]]:
    """load_lora of comfy/lora.py, LoRAAdapter of comfy/weight_adapter/lora.py: weight -> its change; keys unread."""
    changes, read = {}, set()
    for stem, weight in key_map.items():
        if f"{stem}.lora_up.weight" in lora:
            keys = [f"{stem}.lora_up.weight", f"{stem}.lora_down.weight", f"{stem}.alpha"]
            up, down, alpha = (lora[key] for key in keys)
            changes[weight] = alpha.item() / down.shape[0] * (up @ down)
            read |= {*keys}
    return changes, {*lora} - read


def in_diffusers(names: list[str]) -> dict[str, str]:
    """Wan's own name of a layer -> diffusers', by the table with which diffusers converts whole checkpoints."""
    converted = convert_wan_transformer_to_diffusers({f"{name}.weight": name for name in names})
    return {name: key.removesuffix(".weight") for key, name in converted.items()}


def trained(model: WanTransformer3DModel, lora: LoraConfig, seed: int = 1) -> dict[str, WanTransformer3DModel]:
    models = {"transformer": model}
    add_adapters(models, lora, seed=0)
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in policy_parameters(models):
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return models


def changes(model: WanTransformer3DModel) -> dict[str, Tensor]:
    """What peft itself says that the adapter "policy" adds to each layer's weight."""
    return {
        name: layer.get_delta_weight("policy").detach()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, change in wanted.items():
        torch.testing.assert_close(found[name], change, atol=1e-6, rtol=1e-5)


def tensors_of(layers: dict[str, Layer], tool: str) -> dict[str, Any]:
    """The layers as another tool names them."""
    theirs = {ours: name for name, ours in in_diffusers(wan_of_comfyui(images=True)).items()}
    found: dict[str, Any] = {}
    for module, layer in layers.items():
        stem = f"transformer.{module}"
        down, up = ("lora_A", "lora_B") if tool == "diffusers" else ("lora_down", "lora_up")
        if tool != "diffusers":
            stem = f"diffusion_model.{theirs[module]}"
            found[f"{stem}.alpha"] = torch.tensor(layer.alpha)
        found |= {f"{stem}.{down}.weight": layer.down, f"{stem}.{up}.weight": layer.up}
    if tool == "musubi":
        renamed = {}
        for key, tensor in found.items():
            stem, part = key.removeprefix("diffusion_model.").split(".lora_") if ".lora_" in key else (key[16:-6], "")
            renamed[f"lora_unet_{stem.replace('.', '_')}.{f'lora_{part}' if part else 'alpha'}"] = tensor
        return renamed
    return found


def random_layers(modules: dict[str, tuple[int, int]], *, rank: int, alpha: float) -> dict[str, Layer]:
    generator = torch.Generator().manual_seed(6)
    return {
        name: Layer(torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator), alpha)
        for name, (out, width) in modules.items()
    }


def linear(model: nn.Module, *parts: str) -> dict[str, tuple[int, int]]:
    """The linear layers of the model, or those with one of the parts in their names -> (out, in)."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (not parts or any(part in name for part in parts))
    }


@pytest.mark.parametrize("images", [False, True], ids=["text to video", "image to video"])
def test_comfyuis_key_rule_matches_every_layer(images: bool, tmp_path: Path):
    """All linear layers that a Wan transformer has are adapted; each is found, and changed by what peft says."""
    model = transformer(images=images)
    every = linear(model)
    models = trained(model, LoraConfig(rank=4, alpha=6, targets=[*EVERYTHING, *(OF_IMAGES if images else [])]))
    wanted = changes(model)
    assert wanted.keys() == every.keys() and len(every) == (BLOCKS * (12 if images else 10) + (8 if images else 6))
    save_lora(tmp_path / "a", models, LoraConfig(rank=4, alpha=6, targets=EVERYTHING))
    save_comfyui(tmp_path / "c.safetensors", read_layers(tmp_path / "a" / LORA_FILE))
    found, unread = loaded_by_comfyui(load_file(tmp_path / "c.safetensors"), key_map_of_comfyui(images=images))
    assert not unread
    names = in_diffusers(wan_of_comfyui(images=images))
    assert_same({names[key[len("diffusion_model.") : -len(".weight")]]: found[key] for key in found}, wanted)


@pytest.mark.parametrize("images", [False, True], ids=["text to video", "image to video"])
def test_diffusers_reads_what_was_written_for_comfyui(images: bool, tmp_path: Path):
    model = transformer(images=images)
    lora = LoraConfig(rank=4, alpha=6, targets=[*EVERYTHING[:6], *(OF_IMAGES[:2] if images else [])])
    models = trained(model, lora)
    save_lora(tmp_path, models, lora)
    save_comfyui(tmp_path / "c.safetensors", read_layers(tmp_path / LORA_FILE))
    theirs: Any = WanPipeline.lora_state_dict(str(tmp_path), weight_name="c.safetensors", local_files_only=True)
    modules = {key.split(".lora_")[0].removeprefix("transformer.") for key in theirs}
    found = {  # without metadata diffusers scales by 1: its converter has put alpha / rank into the matrices
        name: theirs[f"transformer.{name}.lora_B.weight"] @ theirs[f"transformer.{name}.lora_A.weight"]
        for name in modules
    }
    assert_same(found, changes(model))
    read = read_layers(tmp_path / "c.safetensors")  # and so do we, bit for bit
    for name, layer in read_layers(tmp_path / LORA_FILE).items():
        assert torch.equal(read[name].down, layer.down) and torch.equal(read[name].up, layer.up)
        assert read[name].alpha == layer.alpha


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tool", ["comfyui", "musubi"])
def test_other_tools_files_are_read_as_diffusers_reads_them(tool: str, dtype: torch.dtype, tmp_path: Path):
    """alpha / rank is 0.75: diffusers, in the file's own precision, rounds where we do not."""
    layers = random_layers(linear(transformer(), "attn", "ffn"), rank=4, alpha=3.0)
    tensors = {key: tensor.to(dtype) for key, tensor in tensors_of(layers, tool).items()}
    if dtype == torch.float32:  # alpha as kohya's scripts write an integer one
        tensors |= {key: tensor.long() for key, tensor in tensors.items() if key.endswith(".alpha")}
    save_file(tensors, tmp_path / "theirs.safetensors")
    widened: Any = {key: tensor.float() for key, tensor in tensors.items()}
    theirs: Any = WanPipeline.lora_state_dict(widened)
    found = read_layers(tmp_path / "theirs.safetensors")
    assert found.keys() == layers.keys() and len(theirs) == 2 * len(found)
    for name, layer in found.items():
        assert layer.down.dtype == layer.up.dtype == torch.float32
        wanted = theirs[f"transformer.{name}.lora_B.weight"] @ theirs[f"transformer.{name}.lora_A.weight"]
        torch.testing.assert_close(layer.scale * (layer.up @ layer.down), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tool", ["diffusers", "comfyui", "musubi"])
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_a_run_starts_from_the_function_of_another_tools_file(tool: str, rank: int, tmp_path: Path):
    """A smaller rank, another alpha, some of the targets: what the adapter adds is the file's change, else 0."""
    alpha = rank if tool == "diffusers" else 5.0  # of diffusers' keys without metadata alpha is the rank
    model = transformer()
    everywhere = linear(model, "attn")
    layers = random_layers(linear(model, "to_q", "attn2.to_out"), rank=rank, alpha=alpha)
    save_file(tensors_of(layers, tool), tmp_path / "theirs.safetensors")
    models = {"transformer": model}
    add_adapters(models, ATTENTIONS, seed=5)
    first = {name: parameter.detach().clone() for name, parameter in policy_parameters(models)}
    assert load_lora(tmp_path / "theirs.safetensors", models) == 2 * len(everywhere)
    wanted = {name: torch.zeros(shape) for name, shape in everywhere.items()}
    wanted |= {name: alpha / rank * (layer.up @ layer.down) for name, layer in layers.items()}
    assert_same(changes(model), wanted)
    for name, parameter in policy_parameters(models):  # what the file does not say is as new, so that it can be learned
        module = name.removeprefix("transformer.").split(".lora_")[0]
        if "lora_A" in name:
            kept = rank if module in layers else 0
            assert torch.equal(parameter[kept:], first[name][kept:])


def test_ranks_and_alphas_may_differ_from_layer_to_layer(tmp_path: Path):
    model = transformer()
    layers = random_layers(linear(model, "attn1.to_q"), rank=2, alpha=1.0)
    layers |= random_layers(linear(model, "attn1.to_k"), rank=4, alpha=7.0)
    save_file(tensors_of(layers, "comfyui"), tmp_path / "theirs.safetensors")
    models = trained(model, ATTENTIONS.model_copy(update={"targets": ["attn1.to_q", "attn1.to_k"]}))  # its B is not 0
    load_lora(tmp_path / "theirs.safetensors", models)
    assert_same(changes(model), {name: layer.scale * (layer.up @ layer.down) for name, layer in layers.items()})


def test_what_does_not_fit_the_run_is_refused_by_name(tmp_path: Path):
    model = transformer()
    add_adapters({"transformer": model}, ATTENTIONS, seed=5)
    file = tmp_path / "theirs.safetensors"

    def refused(layers: dict[str, Layer]) -> str:
        save_file(tensors_of(layers, "diffusers"), file)
        with pytest.raises(ValueError) as error:
            load_lora(file, {"transformer": model})
        assert str(error.value).startswith(f"{file}: ")
        return str(error.value)

    bare = transformer()
    queries = linear(bare, "attn1.to_q")
    assert "its rank is 6, the model's is 4: set learner.lora.rank=6" in refused(
        random_layers(queries, rank=6, alpha=6.0)
    )
    more = random_layers(linear(bare, "ffn"), rank=2, alpha=2.0)
    assert "learner.lora.targets lacks; add ffn.net.0.proj, ffn.net.2 there" in refused(more)
    beyond = random_layers({"blocks.7.attn1.to_q": (WIDTH, WIDTH)}, rank=2, alpha=2.0)
    assert "it changes blocks.7.attn1.to_q of shape [24, 24], transformer has no such layer" in refused(beyond)
    wide = random_layers({"blocks.0.attn1.to_q": (48, 48)}, rank=2, alpha=2.0)
    assert "of shape [48, 48], transformer has [24, 24] there" in refused(wide)


OTHER_KEYS = {
    "a bias": "diffusion_model.blocks.0.self_attn.q.diff_b",
    "a norm": "diffusion_model.blocks.0.self_attn.norm_q.diff",
    "a difference": "diffusion_model.head.head.diff",
    "DoRA": "diffusion_model.blocks.0.self_attn.q.dora_scale",
    "LoKr": "diffusion_model.blocks.0.self_attn.k.lokr_w1",
    "peft's bias": "transformer.blocks.0.attn1.to_q.lora_B.bias",
    "another model's layer": "diffusion_model.double_blocks.0.img_attn.qkv.lora_down.weight",
    "the text encoder": "lora_te_text_model_encoder_layers_0_q.lora_down.weight",
    "the same layer again": "lora_unet_blocks_0_self_attn_q.lora_down.weight",
}


@pytest.mark.parametrize("key", OTHER_KEYS.values(), ids=list(OTHER_KEYS))
def test_nothing_of_a_file_is_left_out_silently(key: str, tmp_path: Path):
    layers = random_layers(linear(transformer(), "attn1.to_q"), rank=2, alpha=2.0)
    save_file(tensors_of(layers, "comfyui") | {key: torch.zeros(2, WIDTH)}, tmp_path / "theirs.safetensors")
    with pytest.raises(ValueError) as error:
        read_layers(tmp_path / "theirs.safetensors")
    assert f"theirs.safetensors: 1 of its keys are no LoRA weights of Wan's linear layers ({key} " in str(error.value)


def test_a_file_that_is_not_whole_or_half_a_layer_is_refused(tmp_path: Path):
    file = tmp_path / "theirs.safetensors"
    good = tensors_of(random_layers(linear(transformer(), "attn1.to_q"), rank=2, alpha=2.0), "comfyui")
    save_file({key: tensor for key, tensor in good.items() if "0.self_attn.q.lora_up" not in key}, file)
    with pytest.raises(ValueError, match=r"blocks.0.attn1.to_q has the shapes \[2, 24\] and \[0\], want two matrices"):
        read_layers(file)
    save_file({"diffusion_model.blocks.0.self_attn.q.lora_up.weight": torch.zeros(2, 2).to(torch.float8_e5m2)}, file)
    with pytest.raises(ValueError, match=r"lora_up.weight \(F8_E5M2\)"):
        read_layers(file)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="is a pointer"):
        read_layers(file)
    save_file(good, file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        read_layers(file)


@pytest.mark.parametrize("key", ["alpha_pattern", "use_rslora", "use_dora"])
def test_a_scale_of_pefts_that_is_not_alpha_over_rank_is_refused(key: str, tmp_path: Path):
    tensors = tensors_of(random_layers(linear(transformer(), "attn1.to_q"), rank=2, alpha=2.0), "diffusers")
    metadata = {"transformer.r": 2, "transformer.lora_alpha": 2, f"transformer.{key}": {"to_q": 1}}
    save_file(tensors, tmp_path / LORA_FILE, {"lora_adapter_metadata": json.dumps(metadata)})
    with pytest.raises(ValueError, match=f"its metadata has {key}"):
        read_layers(tmp_path / LORA_FILE)


def test_where_the_file_of_an_expert_is(tmp_path: Path):
    def held(*names: str) -> dict[str, str]:
        folder = tmp_path / "-".join(names).replace("/", "-")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return {expert: str(file.relative_to(folder)) for expert, file in adapter_files(folder).items()}

    assert held(LORA_FILE) == {"transformer": LORA_FILE}
    second = f"transformer_2/{LORA_FILE}"
    assert held(LORA_FILE, second, "x.safetensors") == {"transformer": LORA_FILE, "transformer_2": second}
    high, low = "wan_high_noise_v2.safetensors", "wan_low_noise_v2.safetensors"
    assert held(low, high) == {"transformer": high, "transformer_2": low}
    assert held("mine.safetensors") == {"transformer": "mine.safetensors"}
    assert held("a.safetensors", "b.safetensors") == held("notes.txt") == {}
    assert adapter_files(tmp_path / "mine.safetensors" / "mine.safetensors")["transformer"].is_file()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fused_weights_are_the_float32_sum_rounded_once(dtype: torch.dtype, tmp_path: Path):
    base = {f"{name}.weight": torch.randn(shape).to(dtype) for name, shape in linear(transformer()).items()}
    base |= {"blocks.0.attn1.to_q.bias": torch.randn(WIDTH).to(dtype), "scale_shift_table": torch.randn(1, 2, WIDTH)}
    save_file(base, tmp_path / "base.safetensors", {"format": "pt", "note": "kept"})
    layers = random_layers(linear(transformer(), "attn1.to_q"), rank=4, alpha=3.0)
    fuse(tmp_path / "base.safetensors", tmp_path / "fused.safetensors", layers)
    fused = load_file(tmp_path / "fused.safetensors")
    assert fused.keys() == base.keys()
    for key, weight in base.items():
        layer = layers.get(key.removesuffix(".weight"))
        if layer is None:
            assert torch.equal(fused[key], weight)
        else:
            exact = weight.double() + 0.75 * (layer.up.double() @ layer.down.double())
            assert fused[key].dtype == dtype
            torch.testing.assert_close(
                fused[key].double(), exact, atol=1e-5, rtol=2**-8 if dtype != torch.float32 else 0
            )
