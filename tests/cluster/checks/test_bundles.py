"""Bundles as people bring them, each broken in one way: `apogee check` names file and key, and loads no weight."""

# pyright: reportPrivateImportUsage=false

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from safetensors.torch import load_file, save_file

from cluster.checks.run import check
from configs.load import load_config
from tests.inputs import says

MINIATURE = Path("examples/miniature/weights/bundle")
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
CONFIG = "transformer/config.json"
TEXT, VAE = "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"

Break = Callable[[Path], object]


def edit(file: str, **keys: Any) -> Break:
    def change(bundle: Path) -> None:
        content = json.loads((bundle / file).read_text())
        (bundle / file).write_text(json.dumps(content | keys))

    return change


def weights(file: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Break:
    return lambda bundle: save_file(change(load_file(bundle / file)), bundle / file)


def scheduler(made: Any, name: str) -> Break:
    def change(bundle: Path) -> None:
        made.save_pretrained(bundle / "scheduler")
        edit("model_index.json", scheduler=["diffusers", name])(bundle)

    return change


def without_vocabulary(bundle: Path) -> None:
    (bundle / "tokenizer/tokenizer.json").unlink()
    edit("tokenizer/tokenizer_config.json", tokenizer_class="T5Tokenizer")(bundle)
    edit("model_index.json", tokenizer=["transformers", "T5TokenizerFast"])(bundle)


def with_an_empty_vocabulary(bundle: Path) -> None:
    file = bundle / "tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    kept = {token["content"] for token in content["added_tokens"]}
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        content["model"]["vocab"] = {word: number for word, number in vocabulary.items() if word in kept}
    else:
        content["model"]["vocab"] = [entry for entry in vocabulary if entry[0] in kept]
    file.write_text(json.dumps(content))


def in_shards(bundle: Path) -> None:
    """The transformer's weights in two files; the index says of one tensor that it is in the other file."""
    tensors = load_file(bundle / TRANSFORMER)
    (bundle / TRANSFORMER).unlink()
    names, places = sorted(tensors), {}
    for number, some in enumerate((names[::2], names[1::2]), start=1):
        file = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in some}, bundle / "transformer" / file)
        places |= dict.fromkeys(some, file)
    places[names[0]] = places[names[1]]
    (bundle / f"{TRANSFORMER}.index.json").write_text(json.dumps({"weight_map": places}))


unipc = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
euler = "FlowMatchEulerDiscreteScheduler"
SCHEDULER = "scheduler/scheduler_config.json"

BROKEN: dict[str, tuple[Break, str]] = {
    "another program's names": (
        weights(TEXT, lambda held: {f"text_encoders.umt5xxl.transformer.{name}": t for name, t in held.items()}),
        f"{TEXT}: not the weights of the UMT5EncoderModel … first is text_encoders.umt5xxl",
    ),
    "the original repository's names": (
        weights(TRANSFORMER, lambda held: {name.replace("attn1.to_q", "self_attn.q"): t for name, t in held.items()}),
        f"{TRANSFORMER}: … first is blocks.0.attn1.to_q",
    ),
    "one tensor missing": (
        weights(TRANSFORMER, lambda held: {n: t for n, t in held.items() if n != "blocks.1.attn1.to_q.weight"}),
        f"{TRANSFORMER}: … 1 of its tensors are missing (the first is blocks.1.attn1.to_q.weight)",
    ),
    "one tensor of the VAE missing": (
        weights(VAE, lambda held: {n: t for n, t in held.items() if n != "quant_conv.bias"}),
        f"{VAE}: … AutoencoderKLWan … quant_conv.bias",
    ),
    "a block too many": (edit(CONFIG, num_layers=3), "none of its tensors (the first is blocks.3."),
    "another width": (edit(CONFIG, ffn_dim=512), "has shape [384 … has [512"),
    "float8": (
        weights(TRANSFORMER, lambda held: {n: t.to(torch.float8_e4m3fn) if t.ndim > 1 else t for n, t in held.items()}),
        f"{TRANSFORMER}: … is F8_E4M3: quantised",
    ),
    "scales": (
        weights(TRANSFORMER, lambda held: held | {"blocks.0.attn1.to_q.scale_weight": torch.ones(1)}),
        "first is blocks.0.attn1.to_q.scale_weight) … quantised",
    ),
    "a pointer": (
        lambda b: (b / VAE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
        f"{VAE} is a pointer … download the folder again",
    ),
    "half a file": (
        lambda b: (b / TEXT).write_bytes((b / TEXT).read_bytes()[:200_000]),
        f"{TEXT} is not a whole safetensors file … download it again",
    ),
    "an index of other shards": (in_shards, "index.json: … is in … 00001-of-00002.safetensors, the index says"),
    "quantised config": (
        edit(CONFIG, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "transformer/config.json: quantization_config = … quantised weights are not read",
    ),
    "quantised text encoder": (
        edit("text_encoder/config.json", quantization_config={"quant_method": "fp8"}),
        "text_encoder/config.json: quantization_config",
    ),
    "a null for a list": (edit(CONFIG, patch_size=None), "config.json: patch_size = None"),
    "a text for a number": (edit(CONFIG, num_attention_heads="4"), "transformer/config.json:"),
    "a list for a number": (edit("vae/config.json", base_dim=[16]), "vae/config.json: no AutoencoderKLWan can"),
    "a number for a component": (edit("model_index.json", vae=7), "model_index.json: vae = 7: should be"),
    "another class of component": (
        edit("model_index.json", text_encoder=["transformers", "T5EncoderModel"]),
        "model_index.json: text_encoder is a T5EncoderModel: … expected UMT5EncoderModel",
    ),
    "another VAE": (edit("vae/config.json", _class_name="AutoencoderKL"), "_class_name = AutoencoderKL: not Wan"),
    "another text width": (edit(CONFIG, text_dim=128), "text_dim = 128 but the text encoder has"),
    "no vocabulary": (without_vocabulary, "tokenizer holds no vocabulary"),
    "an empty vocabulary": (with_an_empty_vocabulary, "tokenizer holds no vocabulary"),
    "another tokenizer": (edit("text_encoder/config.json", vocab_size=9), "has 21 tokens and the text encoder 9"),
    "a smaller model's tokenizer": (edit("text_encoder/config.json", vocab_size=64), "has 21 tokens and … 64"),
    "another number of timesteps": (edit(SCHEDULER, num_train_timesteps=500), "num_train_timesteps = 500: want 1000"),
    "a T5 encoder": (edit("text_encoder/config.json", model_type="t5"), "model_type = 't5': should be 'umt5'"),
    "a stochastic scheduler": (
        scheduler(FlowMatchEulerDiscreteScheduler(shift=5.0, stochastic_sampling=True), euler),
        f"{SCHEDULER}: stochastic_sampling = True: want false: the same seed",
    ),
    "inverted sigmas": (
        scheduler(FlowMatchEulerDiscreteScheduler(shift=5.0, invert_sigmas=True), euler), f"{SCHEDULER}: invert_sigmas"
    ),
    "dynamic shifting": (edit(SCHEDULER, use_dynamic_shifting=True), f"{SCHEDULER}: use_dynamic_shifting = True"),
    "Karras's sigmas": (edit(SCHEDULER, use_karras_sigmas=True), f"{SCHEDULER}: use_karras_sigmas = True: want false"),
    "a noise prediction": (edit(SCHEDULER, predict_x0=False), f"{SCHEDULER}: predict_x0 = False: want true"),
    "a shift that is a text": (edit(SCHEDULER, flow_shift="3.0"), f"{SCHEDULER}: flow_shift = '3.0': want a"),
    "a shift that is infinite": (edit(SCHEDULER, flow_shift=float("inf")), f"{SCHEDULER}: flow_shift = inf: want a"),
    "a shift that is no number": (edit(SCHEDULER, flow_shift=float("nan")), f"{SCHEDULER}: flow_shift = nan: want a"),
    "no flow": (edit(SCHEDULER, use_flow_sigmas=False), f"{SCHEDULER}: use_flow_sigmas = False: want true"),
    "a config of another class": (
        edit("model_index.json", scheduler=["diffusers", euler]),
        f"{SCHEDULER}: _class_name = UniPCMultistepScheduler, model_index.json has {euler}",
    ),
    "a solver that divides by zero": (edit(SCHEDULER, solver_type="bh1"), f"{SCHEDULER}: its videos are not finite"),
    "a last step of full order": (edit(SCHEDULER, lower_order_final=False), f"{SCHEDULER}: its videos are not finite"),
    "a last step of order 3": (edit(SCHEDULER, solver_order=3, lower_order_final=False), "Scheduler can be made of it"),
    "an unknown solver": (edit(SCHEDULER, solver_order="two"), f"{SCHEDULER}: no UniPCMultistepScheduler can be made"),
}  # fmt: skip


def problems(bundle: Path, tmp_path: Path) -> list[str]:
    settings = [f"model.path={bundle}", f"out={tmp_path / 'run'}", "cluster.num_cpus=8"]
    return check(load_config("configs/miniature.yaml", settings)).problems


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=list(BROKEN))
def test_what_is_broken_is_named(change: Break, words: str, tmp_path: Path) -> None:
    bundle = shutil.copytree(MINIATURE, tmp_path / "bundle")
    change(bundle)
    found = problems(bundle, tmp_path)
    assert all(str(bundle) in problem for problem in found)
    assert any(says(problem, words) for problem in found), found


WHOLE: dict[str, Break] = {
    "as it is": lambda bundle: None,
    "Euler": scheduler(FlowMatchEulerDiscreteScheduler(shift=5.0), euler),
    "Euler from the config of UniPC": scheduler(
        FlowMatchEulerDiscreteScheduler.from_config(unipc.config, shift=5.0), euler
    ),
    "half precision": weights(TRANSFORMER, lambda held: {name: t.bfloat16() for name, t in held.items()}),
    "a key that nobody knows": edit(CONFIG, my_note="fine-tuned"),
}


@pytest.mark.parametrize("change", WHOLE.values(), ids=list(WHOLE))
def test_what_is_whole_is_taken(change: Break, tmp_path: Path) -> None:
    bundle = shutil.copytree(MINIATURE, tmp_path / "bundle")
    change(bundle)
    assert problems(bundle, tmp_path) == []


def test_the_shift_is_that_of_the_scheduler_s_own_class(tmp_path: Path) -> None:
    bundle = shutil.copytree(MINIATURE, tmp_path / "bundle")
    WHOLE["Euler from the config of UniPC"](bundle)
    facts = check(load_config("configs/miniature.yaml", [f"model.path={bundle}", f"out={tmp_path / 'run'}"])).facts
    assert facts is not None and (facts.scheduler, facts.flow_shift) == (euler, 5.0)
