import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from policy.bundle import check_bundle
from tests.policy.tiny_bundle import FAMILIES, save_tiny_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def bundle_two(tiny_bundle_two_experts: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle_two_experts, tmp_path / "bundle"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_facts_of_one_expert(tiny_bundle: Path):
    facts = check_bundle(tiny_bundle)
    assert (facts.pipeline, facts.experts, facts.boundary_ratio) == ("WanPipeline", ("transformer",), None)
    assert (facts.patch, facts.vae_temporal, facts.vae_spatial) == ((1, 2, 2), 4, 4)
    assert (facts.scheduler, facts.flow_shift, facts.channels) == ("UniPCMultistepScheduler", 3.0, 16)


def test_facts_of_two_experts(tiny_bundle_two_experts: Path):
    facts = check_bundle(str(tiny_bundle_two_experts))
    assert facts.experts == ("transformer", "transformer_2")
    assert (facts.boundary_ratio, facts.vae_spatial, facts.num_train_timesteps) == (0.875, 8, 1000)


def test_latent_shape(tiny_bundle: Path):
    assert check_bundle(tiny_bundle).latent_shape(9, 32, 48) == (16, 3, 8, 12)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((10, 32, 32), r"sampling.num_frames = 10: .*nearest are 9 and 13"),
        ((9, 36, 32), r"sampling.height = 36: must be a multiple of 8"),
        ((9, 32, 4), r"sampling.width = 4: must be a multiple of 8"),
    ],
)
def test_sizes_that_do_not_fit_name_the_key(tiny_bundle: Path, size: tuple[int, int, int], message: str):
    with pytest.raises(ValueError, match=message):
        check_bundle(tiny_bundle).latent_shape(*size)


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"model.path: no folder .*nowhere"):
        check_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(bundle: Path, file: str):
    (bundle / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        check_bundle(bundle)


def test_a_missing_shard_is_named(bundle: Path):
    part = bundle / "transformer"
    weights = part / "diffusion_pytorch_model.safetensors"
    names = load_file(weights).keys()
    weights.rename(part / "diffusion_pytorch_model-00001-of-00002.safetensors")
    shards = dict.fromkeys(names, "diffusion_pytorch_model-00001-of-00002.safetensors")
    index = part / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    assert check_bundle(bundle).experts == ("transformer",)
    index.write_text(json.dumps({"weight_map": shards | {"b": "diffusion_pytorch_model-00002-of-00002.safetensors"}}))
    with pytest.raises(FileNotFoundError, match="00002-of-00002"):
        check_bundle(bundle)


def test_malformed_json_is_named(bundle: Path):
    (bundle / "vae" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"vae.config.json: not valid JSON"):
        check_bundle(bundle)


INDEX = [
    (lambda c: c.update(_class_name="FluxPipeline"), "_class_name = FluxPipeline: not a Wan"),
    (
        lambda c: c.update(_class_name="WanImageToVideoPipeline"),
        "in_channels = 16: model_index.json has WanImageToVideoPipeline, which gives 36 channels",
    ),
    (lambda c: c.update(vae=[None, None]), "vae is missing"),
    (lambda c: c.update(transformer=[None, None]), "transformer = null"),
    (lambda c: c.update(boundary_ratio=0.9), "boundary_ratio = 0.9 but there is no transformer_2"),
    (
        lambda c: c.update(scheduler=["diffusers", "DDIMScheduler"]),
        "DDIMScheduler is not supported, expected one of UniPC",
    ),
]


@pytest.mark.parametrize(("change", "message"), INDEX)
def test_what_the_index_says_is_checked(bundle: Path, change: Callable[[dict[str, Any]], object], message: str):
    edit(bundle / "model_index.json", change)
    with pytest.raises(ValueError, match=message):
        check_bundle(bundle)


PARTS = [
    ("transformer/config.json", lambda c: c.update(_class_name="FluxTransformer2DModel"), "not Wan, expected"),
    (
        "transformer/config.json",
        lambda c: c.update(image_dim=1280),
        "image_dim = 1280: .* in_channels = 36, .* image_en",
    ),
    (
        "transformer/config.json",
        lambda c: c.update(image_dim=4, in_channels=36),
        "image_dim = 4: .* an image_encoder and an image_processor",
    ),
    ("transformer/config.json", lambda c: c.update(in_channels=20), "in_channels = 20: .* want 16 .* or 36"),
    ("transformer/config.json", lambda c: c.update(out_channels=8), "out_channels = 8 but the VAE has 16 channels"),
    ("transformer/config.json", lambda c: c.update(pos_embed_seq_len=514), "pos_embed_seq_len = 514: .* two pictures"),
    (
        "scheduler/scheduler_config.json",
        lambda c: c.update(prediction_type="epsilon"),
        "prediction_type = 'epsilon': want flow_prediction",
    ),
    ("scheduler/scheduler_config.json", lambda c: c.update(flow_shift=0), "flow_shift = 0: want a positive"),
    (
        "scheduler/scheduler_config.json",
        lambda c: c.update(use_dynamic_shifting=True),
        "use_dynamic_shifting = True: want false",
    ),
]


@pytest.mark.parametrize(("file", "change", "message"), PARTS)
def test_what_the_parts_say_is_checked(
    bundle: Path, file: str, change: Callable[[dict[str, Any]], object], message: str
):
    edit(bundle / file, change)
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        check_bundle(bundle)


def test_two_experts_need_a_boundary(bundle_two: Path):
    edit(bundle_two / "model_index.json", lambda c: c.update(boundary_ratio=None))
    with pytest.raises(ValueError, match="boundary_ratio = None: two experts need a boundary"):
        check_bundle(bundle_two)


def test_checking_loads_no_torch():
    code = "import sys, policy.bundle; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


OF_PICTURES = [
    ("Wan2.1-I2V", "image_encoder/config.json", lambda c: c.update(hidden_size=8), "hidden_size = 8, .* image_dim = 4"),
    ("Wan2.2-I2V-A14B", "transformer_2/config.json", lambda c: c.update(in_channels=16), "in_channels = 16, the other"),
    (
        "Wan2.2-TI2V-5B",
        "transformer/config.json",
        lambda c: c.update(in_channels=100),
        "a bundle with expand_timesteps",
    ),
]


@pytest.mark.parametrize(("family", "file", "change", "message"), OF_PICTURES)
def test_parts_of_a_bundle_whose_videos_begin_with_pictures_agree(
    tmp_path: Path, family: str, file: str, change: Callable[[dict[str, Any]], object], message: str
):
    bundle = save_tiny_bundle(tmp_path / "b", **FAMILIES[family])
    edit(bundle / file, change)
    with pytest.raises(ValueError, match=message):
        check_bundle(bundle)


def test_a_text_that_would_be_mistaken_for_a_picture_is_refused(tmp_path: Path):
    bundle = save_tiny_bundle(tmp_path / "b", **FAMILIES["Wan2.1-I2V"])
    with pytest.raises(ValueError, match=r"model.max_text_tokens = 226: .* give 512"):
        check_bundle(bundle).check_text_tokens(226)
    (bundle / "image_processor" / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config.json is missing"):
        check_bundle(bundle)
