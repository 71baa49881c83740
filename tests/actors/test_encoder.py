from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from actors.encoder import LATENTS, PROMPT_EMBEDS, Encoder
from buffers.people.rows import ConditionFiles, VideoFiles
from buffers.records import Condition, EncodedCondition, TensorData
from buffers.tensors import decode
from configs.sections import ModelConfig, SamplingConfig
from media.video_write import write_mp4
from tests.policy.tiny_bundle import save_tiny_bundle

SAMPLING = SamplingConfig(num_frames=9, height=32, width=48, fps=8.0)
CONDITION = Condition("c", "a red circle moving left", "general")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for name in ("one", "two"):
        write_mp4(folder / f"{name}.mp4", rng.integers(0, 256, (9, 32, 48, 3), dtype=np.uint8), fps=8.0)
    (folder / "no.mp4").write_bytes(b"no video")
    latents = torch.randn((16, 3, 8, 12), generator=torch.Generator().manual_seed(0))
    save_file({LATENTS: latents, PROMPT_EMBEDS: latents[0, 0].clone()}, folder / "exact.safetensors")
    save_file({LATENTS: latents[:4]}, folder / "other.safetensors")
    (folder / "torn.safetensors").write_bytes((folder / "exact.safetensors").read_bytes()[:100])
    return folder


def encoder(bundle: Path, *exact: str, dtype: str = "float32") -> Encoder:
    model = ModelConfig.model_validate({"path": str(bundle), "dtype": dtype, "max_text_tokens": 16})
    return Encoder(model, SAMPLING, device="cpu", exact=exact)


def test_videos_come_back_in_order_and_a_bad_one_spoils_no_other(tiny_bundle: Path, folder: Path):
    made = encoder(tiny_bundle).videos([VideoFiles(folder / f"{name}.mp4") for name in ("one", "no", "two", "one")])
    one, no, two, again = made
    assert isinstance(one, TensorData) and isinstance(two, TensorData) and isinstance(again, TensorData)
    assert one.shape == two.shape == (16, 3, 8, 12) and one.dtype == "float32"
    assert torch.equal(decode(one), decode(again)) and not torch.equal(decode(one), decode(two))
    assert isinstance(no, str) and "no.mp4" in no
    (small,) = encoder(tiny_bundle, dtype="bfloat16").videos([VideoFiles(folder / "one.mp4")])
    assert isinstance(small, TensorData) and small.dtype == "bfloat16"


def test_exact_tensors_are_taken_only_where_they_are_the_bundles_own(tiny_bundle: Path, folder: Path):
    video = VideoFiles(folder / "one.mp4", folder / "exact.safetensors")
    files = ConditionFiles(CONDITION.prompt, CONDITION.domain, exact=folder / "exact.safetensors", id=CONDITION.id)
    trusting, plain = encoder(tiny_bundle, LATENTS, PROMPT_EMBEDS), encoder(tiny_bundle)
    latents = torch.randn((16, 3, 8, 12), generator=torch.Generator().manual_seed(0))
    (exact,), (encoded,) = trusting.videos([video]), plain.videos([video])
    assert isinstance(exact, TensorData) and torch.equal(decode(exact), latents)
    assert isinstance(encoded, TensorData) and not torch.equal(decode(encoded), latents)
    (held,), (made,) = trusting.conditions([files]), plain.conditions([files])
    assert isinstance(held, EncodedCondition) and torch.equal(decode(held.prompt_embeds), latents[0, 0])
    assert isinstance(made, EncodedCondition) and made.prompt_embeds.shape[0] == 16


@pytest.mark.parametrize(
    ("name", "why"), [("other", "other.safetensors: latents of shape"), ("torn", "torn.safetensors: holds no latents")]
)
def test_exact_latents_that_cannot_be_the_bundles_are_named(tiny_bundle: Path, folder: Path, name: str, why: str):
    (said,) = encoder(tiny_bundle, LATENTS).videos([VideoFiles(folder / "one.mp4", folder / f"{name}.safetensors")])
    assert isinstance(said, str) and why in said


def test_a_first_frame_covers_the_size_of_the_videos(tmp_path: Path):
    """Twice as wide as wanted: scaled to the height, so that the left and right quarters fall away."""
    picture = np.zeros((64, 192, 3), np.uint8)
    picture[:, 48:144] = 255
    Image.fromarray(picture).save(tmp_path / "wide.png")
    (tmp_path / "no.png").write_bytes(b"no picture")
    some = [ConditionFiles("x", None, tmp_path / name) for name in ("wide.png", "no.png")]
    bundle = save_tiny_bundle(tmp_path / "bundle", framed=True)
    wide, no = encoder(bundle).conditions(some)
    assert isinstance(wide, EncodedCondition) and wide.first_frame is not None and wide.frame_latents is not None
    assert wide.first_frame.shape == (32, 48, 3) and wide.frame_latents.shape == (20, 3, 8, 12)
    assert decode(wide.first_frame)[:, 3:-3].min() == 255
    assert isinstance(no, str) and "no.png: not a picture" in no


def test_videos_keep_their_aspect_and_those_of_one_picture_get_its(tmp_path: Path):
    rng = np.random.default_rng(0)
    for name, (height, width) in {"wide": (40, 80), "high": (80, 40)}.items():
        write_mp4(tmp_path / f"{name}.mp4", rng.integers(0, 256, (9, height, width, 3), dtype=np.uint8), fps=8.0)
    Image.fromarray(np.zeros((80, 40, 3), np.uint8)).save(tmp_path / "high.png")
    bundle = save_tiny_bundle(tmp_path / "bundle", framed=True)
    model = ModelConfig.model_validate({"path": str(bundle), "dtype": "float32", "max_text_tokens": 16})
    own = SamplingConfig(num_frames=9, pixels=32 * 64, fps=8.0)
    encoder = Encoder(model, own, device="cpu")
    files = [VideoFiles(tmp_path / "wide.mp4"), VideoFiles(tmp_path / "high.mp4")]
    files += [VideoFiles(each.file, shaped_as=tmp_path / like) for each in files for like in ("high.png", "wide.mp4")]
    shapes = [each.shape[2:] for each in encoder.videos(files) if isinstance(each, TensorData)]
    wide, high = (8, 16), (16, 8)
    assert shapes == [wide, high, high, wide, high, wide]
    (condition,) = encoder.conditions([ConditionFiles("x", None, tmp_path / "high.png")])
    assert isinstance(condition, EncodedCondition) and condition.first_frame is not None
    assert condition.first_frame.shape == (64, 32, 3)


def test_pictures_and_bundle_have_to_go_together(tiny_bundle: Path, tmp_path: Path):
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "black.png")
    (taken,) = encoder(tiny_bundle).conditions([ConditionFiles("x", None, tmp_path / "black.png")])
    assert isinstance(taken, str) and "prompt 'x' has a first frame; for videos of this bundle" in taken
    (lacking,) = encoder(save_tiny_bundle(tmp_path / "bundle", framed=True)).conditions([ConditionFiles("x", None)])
    assert isinstance(lacking, str) and "prompt 'x' has no first frame; for videos of this bundle" in lacking
