"""What lies in the repository: ordinary folders, small enough, and prompts that are really held out."""

# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false, reportArgumentType=false

from pathlib import Path

import torch
from diffusers import WanPipeline

from configs.sections import LoraConfig, SamplingConfig
from examples.miniature.prompts.make import HERE, split
from examples.miniature.world import COLORS, DIRECTIONS, SHAPES
from policy.conditioning import Conditioning
from policy.policy import VideoPolicy
from policy.sampler import draw_noise, sample_latents

WEIGHTS = Path("examples/miniature/weights")


def test_all_weights_together_are_at_most_25_megabytes() -> None:
    assert 1e6 < sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 25e6


def test_held_out_prompts_are_never_trained_on_and_cover_the_world() -> None:
    train, held_out = split()
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == len(COLORS) * (len(SHAPES) + 1) * len(DIRECTIONS)
    words = {word for line in held_out for word in line.split("\t")[1].split()}
    assert words >= {*COLORS, *SHAPES, "person", *DIRECTIONS}
    for name, lines in (("train", train), ("held_out", held_out)):
        assert (HERE / f"{name}.txt").read_text().splitlines() == lines


def test_the_bundle_samples_alike_here_and_in_plain_diffusers() -> None:
    policy = VideoPolicy.load(
        WEIGHTS / "bundle", dtype="float32", device="cpu", lora=LoraConfig(rank=4, alpha=4), seed=0, max_text_tokens=16
    )
    noise = torch.stack([draw_noise(seed, policy.facts.latent_shape(9, 32, 32)) for seed in (3, 4)])
    prompts = ["a red circle moving left", "an orange person walking up"]
    ours = sample_latents(
        policy,
        noise=noise,
        conditioning=Conditioning(policy.encode_prompts(prompts)),
        negative=Conditioning(policy.encode_prompts([""] * 2)),
        sampling=SamplingConfig(steps=10, guidance_scale=2.0),
    )
    pipe = WanPipeline.from_pretrained(WEIGHTS / "bundle")
    theirs = pipe(
        prompts,
        latents=noise,
        height=32,
        width=32,
        num_frames=9,
        num_inference_steps=10,
        guidance_scale=2.0,
        max_sequence_length=16,
        output_type="latent",
    ).frames
    assert (ours - theirs).abs().max() <= 1e-4
