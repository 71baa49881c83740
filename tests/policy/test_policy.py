# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalSubscript=false

import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file

from configs.sections import LoraConfig
from policy.conditioning import Conditioning
from policy.policy import VideoPolicy, check_device

PROMPTS = ["a red  circle moving left", "the blue person walking &amp; moving right"]


@pytest.fixture(scope="module")
def policy(tiny_bundle: Path) -> VideoPolicy:
    return VideoPolicy.load(tiny_bundle, dtype="float32", max_text_tokens=16)


@pytest.fixture(scope="module")
def policy_two(tiny_bundle_two_experts: Path) -> VideoPolicy:
    return VideoPolicy.load(tiny_bundle_two_experts, dtype="float32", max_text_tokens=16)


@pytest.fixture(scope="module")
def pipe(tiny_bundle: Path) -> Any:
    return WanPipeline.from_pretrained(tiny_bundle, dtype=torch.float32)


def test_prompt_embeddings_are_the_pipelines(policy: VideoPolicy, pipe: Any):
    with torch.no_grad():
        theirs, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=16)
    ours = policy.encode_prompts(PROMPTS)
    assert ours.shape == (2, 16, 32)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert ours[0, 6:].abs().max() == 0 < ours[0, :6].abs().min()  # five words and the end of the sequence


def test_decoded_pixels_are_the_pipelines(policy: VideoPolicy, pipe: Any):
    latents = torch.randn(2, *policy.facts.latent_shape(9, 32, 48), generator=torch.Generator().manual_seed(1))
    video = policy.decode(latents)
    assert video.dtype == np.uint8
    assert video.shape == (2, 9, 32, 48, 3)
    config = pipe.vae.config
    mean, std = (torch.tensor(values).view(1, 16, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
    with torch.no_grad():
        theirs = pipe.vae.decode(latents * std + mean).sample
    theirs = pipe.video_processor.postprocess_video(theirs, output_type="np")
    assert np.abs(video / 255 - theirs).max() < 0.5 / 255 + 1e-5


def test_encoded_latents_are_those_of_diffusers_preprocessing_and_its_vae(policy: VideoPolicy, pipe: Any):
    video = np.random.default_rng(0).integers(0, 256, (3, 9, 32, 48, 3), dtype=np.uint8)
    ours = policy.encode(video)
    config = pipe.vae.config
    mean, std = (torch.tensor(values).view(1, 16, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
    pixels = torch.cat([pipe.video_processor.preprocess_video(list(one / 255.0)) for one in video])
    with torch.no_grad():
        theirs = (pipe.vae.encode(pixels.float()).latent_dist.mode() - mean) / std
    assert ours.dtype == torch.float32 and tuple(ours.shape[1:]) == policy.facts.latent_shape(9, 32, 48)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    torch.testing.assert_close(policy.encode(video[1:2]), ours[1:2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("frames, size", [(33, 64), (9, 32)])
def test_a_video_too_large_to_be_grouped_is_encoded_alone(policy: VideoPolicy, frames: int, size: int):
    videos = np.random.default_rng(1).integers(0, 256, (2, frames, size, size, 3), dtype=np.uint8)
    both = policy.encode(videos)
    assert tuple(both.shape) == (2, *policy.facts.latent_shape(frames, size, size))
    torch.testing.assert_close(policy.encode(videos[1:]), both[1:], atol=1e-4, rtol=0)


def test_latent_shape_is_what_the_vae_encodes_to(policy: VideoPolicy):
    vae: Any = policy.vae
    with torch.no_grad():
        encoded = vae.encode(torch.zeros(1, 3, 9, 32, 48)).latent_dist.mode()
    assert tuple(encoded.shape[1:]) == policy.facts.latent_shape(9, 32, 48)


def test_velocity_is_the_transformers_output(policy: VideoPolicy, pipe: Any):
    latents = torch.randn(2, *policy.facts.latent_shape(9, 32, 32))
    embeds, timestep = policy.encode_prompts(PROMPTS), torch.tensor([700, 20])
    with torch.no_grad():
        ours = policy.velocity(latents, timestep, Conditioning(embeds), "transformer")
        theirs = pipe.transformer(latents, timestep, embeds).sample
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_experts_split_at_the_boundary(policy: VideoPolicy, policy_two: VideoPolicy):
    assert [policy_two.expert_at(t) for t in (999, 875.0, 874.99, 0)] == [
        "transformer",
        "transformer",
        "transformer_2",
        "transformer_2",
    ]
    assert policy.expert_at(0) == "transformer"


def test_velocity_asks_the_expert_of_the_timestep(policy_two: VideoPolicy):
    latents = torch.randn(1, *policy_two.facts.latent_shape(9, 32, 32))
    embeds = policy_two.encode_prompts(PROMPTS[:1])
    low = torch.tensor([500])
    with torch.no_grad():
        found = policy_two.velocity(latents, low, Conditioning(embeds), policy_two.expert_at(500))
        second = policy_two.transformers["transformer_2"](latents, low, embeds).sample
        first = policy_two.velocity(latents, low, Conditioning(embeds), expert="transformer")
    assert torch.equal(found, second)
    assert (found - first).abs().max() > 1e-2


def test_bf16_base_with_float32_masters_trains(tiny_bundle: Path):
    policy = VideoPolicy.load(tiny_bundle, dtype="bfloat16", lora=LoraConfig(rank=2, alpha=4), max_text_tokens=16)
    transformer = policy.transformers["transformer"]
    assert transformer.get_parameter("blocks.0.attn1.to_q.base_layer.weight").dtype == torch.bfloat16
    lora = {name: p for name, p in transformer.named_parameters() if "lora_" in name}
    assert {p.dtype for p in lora.values()} == {torch.float32}
    assert {name for name, p in transformer.named_parameters() if p.requires_grad} == set(lora)
    embeds = policy.encode_prompts(PROMPTS[:1])
    latents = torch.randn(1, *policy.facts.latent_shape(9, 32, 32))
    velocity = policy.velocity(latents, torch.tensor([500]), Conditioning(embeds), "transformer")
    assert embeds.dtype == velocity.dtype == torch.bfloat16
    optimizer = torch.optim.AdamW(lora.values(), lr=1e-3, weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in lora.items()}
    velocity.float().square().mean().backward()
    optimizer.step()
    # With B = 0 only B has a gradient at first; every B must have moved, in float32.
    moved = {name for name, p in lora.items() if not torch.equal(p, before[name])}
    assert moved == {name for name in lora if "lora_B" in name}
    assert {p.dtype for p in lora.values()} == {torch.float32}


def test_a_prompts_embedding_does_not_depend_on_the_prompts_beside_it():
    policy = VideoPolicy.load("examples/miniature/weights/bundle", dtype="float32", max_text_tokens=16)
    prompts = ["a red circle moving left", "a person in blue walking right", "a green square moving up"]
    together = policy.encode_prompts(prompts)
    for prompt, row in zip(prompts, together, strict=True):
        assert torch.equal(policy.encode_prompts([prompt])[0], row)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_encoder_that_cannot_tell_prompts_apart_is_refused_when_it_starts(
    tiny_bundle: Path, tmp_path: Path, value: float
):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    file = bundle / "text_encoder" / "model.safetensors"
    save_file({name: torch.full_like(tensor, value) for name, tensor in load_file(file).items()}, file)
    policy = VideoPolicy.load(bundle, dtype="float32", max_text_tokens=16, experts=False)
    with pytest.raises(ValueError, match="gives different prompts the same embeddings, or some that are not finite"):
        policy.encode_prompts(["a circle"])


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "vae"])
def test_a_tensor_that_is_not_there_is_an_error_at_loading(tiny_bundle: Path, tmp_path: Path, component: str):
    """Both libraries would give it random values and go on."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (file,) = (bundle / component).glob("*.safetensors")
    held = load_file(file)
    lost = sorted(name for name in held if name.endswith("weight"))[0]
    save_file({name: tensor for name, tensor in held.items() if name != lost}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{component}: not the weights of its config.json: missing keys: {lost}"):
        policy = VideoPolicy.load(bundle, dtype="float32", max_text_tokens=16)
        assert policy.vae and policy.encode_prompts(["a circle"]) is not None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine whose GPU works")
def test_a_machine_whose_gpu_does_not_work_is_named_before_anything_is_read():
    check_device("cpu")
    with pytest.raises(RuntimeError, match=rf"CUDA does not work on {re.escape(socket.gethostname())}: .*PyTorch"):
        check_device("cuda")
