"""What a learner and a generator of a Wan model need of a GPU's memory, on a machine without one.

    python -m benchmarks.memory wan2.2-i2v-a14b --frames 121 --height 720 --width 960
    python -m benchmarks.memory wan2.1-t2v-14b --frames 81 --height 480 --width 832

The learner makes one real optimizer step of one pair, with a timestep of each expert. The generator encodes a first
frame, makes one real step of each expert for the two videos of a pair, with guidance as two passes, and decodes them.
Weights and numbers are pretended (`benchmarks/pretended_gpu.py`). GiB; add 2 to 4 for CUDA itself.
"""

# diffusers' annotations do not say what it exports.
# pyright: reportPrivateImportUsage=false

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from benchmarks.pretended_gpu import GIB, GPU, NOWHERE, PretendedGpu, pretended_gpu
from benchmarks.random_bundle import SIZES
from buffers.records import Batch, Condition, EncodedCondition, Pair, TensorData
from configs.sections import LearnerConfig, LoraConfig, SamplingConfig, TimestepsConfig
from learner.learner import Learner
from learner.objectives.dpo import Dpo
from policy.bundle import BundleFacts
from policy.conditioning import Conditioning, Described
from policy.experts import IdleOnCpu
from policy.lora.adapters import add_adapters
from policy.policy import VideoPolicy
from policy.sampler import sample_latents

TEXT_TOKENS, TEXT_DIM, CLIP_TOKENS = 512, 4096, 257
CLIP_H: dict[str, Any] = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
CLIP_H |= {"num_attention_heads": 16, "image_size": 224, "patch_size": 14}
UMT5_XXL: dict[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10_240,
    "num_layers": 24,
    "num_heads": 64,
    "vocab_size": 256_384,
}


@dataclass(frozen=True)
class Family:
    """A published model. `transformer`: what differs from diffusers' defaults, which are those of Wan2.1 14B."""

    transformer: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)
    boundary_ratio: float | None = None


FAMILIES = {
    "wan2.1-t2v-1.3b": Family(SIZES["wan2.1-t2v-1.3b"]),
    "wan2.1-t2v-14b": Family(),
    "wan2.1-i2v-14b": Family({"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}),
    "wan2.2-t2v-a14b": Family(boundary_ratio=0.875),
    "wan2.2-i2v-a14b": Family({"in_channels": 36}, boundary_ratio=0.9),
    "wan2.2-ti2v-5b": Family(
        {"in_channels": 48, "out_channels": 48, "num_layers": 30, "num_attention_heads": 24, "ffn_dim": 14_336},
        {
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": 48,
            "latents_mean": [0.0] * 48,
            "latents_std": [1.0] * 48,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
        },
    ),
}


def pretended_policy(family: Family, *, lora: LoraConfig, layers: int | None = None) -> VideoPolicy:
    """The policy at its full size, in bfloat16, on the pretended GPU. layers: fewer of them."""
    given: dict[str, Any] = {"cross_attn_norm": True, **family.transformer}
    given |= {"num_layers": layers} if layers is not None else {}
    experts = ("transformer",) if family.boundary_ratio is None else ("transformer", "transformer_2")
    transformers = {}
    for expert in experts:
        with torch.device(GPU):
            transformers[expert] = _frozen(WanTransformer3DModel(**given))
    vae: Any = AutoencoderKLWan(**family.vae)
    scheduler: Any = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    config = transformers["transformer"].config
    facts = BundleFacts(
        path=Path("pretended"),
        pipeline="WanPipeline",
        experts=experts,
        boundary_ratio=family.boundary_ratio,
        patch=(1, 2, 2),
        vae_temporal=4,
        vae_spatial=int(vae.config.scale_factor_spatial),
        scheduler="UniPCMultistepScheduler",
        flow_shift=5.0,
        num_train_timesteps=1000,
        channels=int(vae.config.z_dim),
        in_channels=int(config.in_channels),
        image_dim=config.image_dim,
        expand_timesteps="scale_factor_spatial" in family.vae,
    )
    add_adapters(transformers, lora, seed=0)
    moves = IdleOnCpu(transformers, GPU) if len(experts) > 1 else None
    return VideoPolicy(facts, transformers, scheduler, GPU, torch.bfloat16, TEXT_TOKENS, moves)


def learner_peak(
    gpu: PretendedGpu, family: Family, *, frames: int, height: int, width: int, layers: int | None = None
) -> int:
    """Bytes at the peak of an optimizer step on one pair."""
    lora = LoraConfig()
    policy = pretended_policy(family, lora=lora, layers=layers)
    window = TimestepsConfig(high=1, low=1)
    config = LearnerConfig(pairs_per_step=1, lora=lora, timesteps=window)
    learner = Learner(policy, config, Dpo(config.beta), sampling_steps=40, seed=0)
    shape = policy.facts.latent_shape(frames, height, width)
    gpu.forget_peak()
    for _ in range(1 if len(policy.transformers) == 1 else 2):  # with the optimizer's state of both experts
        learner.step(_batch(policy, shape, learner.steps))
    return gpu.peak


def generator_peak(
    gpu: PretendedGpu, family: Family, *, frames: int, height: int, width: int, layers: int | None = None
) -> int:
    """Bytes at the peak of making the two videos of a pair, text encoder and VAE beside the transformer."""
    policy = pretended_policy(family, lora=LoraConfig(), layers=layers)
    with torch.device(NOWHERE):  # which is the pretended GPU; transformers asks the real one for numbers
        text_encoder: Any = UMT5EncoderModel(UMT5Config(**UMT5_XXL))
        text_encoder.to(torch.bfloat16)
        policy.__dict__["vae"] = AutoencoderKLWan(**family.vae).requires_grad_(False).eval()
        clip = CLIPVisionModel(CLIPVisionConfig(**CLIP_H)).eval() if policy.facts.image_dim else None
        policy.__dict__["_clip"] = CLIPImageProcessor(), clip
    gpu.forget_peak()
    texts = Conditioning(torch.zeros(1, TEXT_TOKENS, TEXT_DIM, dtype=torch.bfloat16, device=GPU))
    picture = None if policy.facts.first_frame == "not taken" else np.zeros((height, width, 3), np.uint8)
    prepared = policy.prepare([Described("a video", picture)], num_frames=frames, texts=texts)
    # Two steps: one of each expert.
    sampling = SamplingConfig(steps=2, num_frames=frames, height=height, width=width, guidance_passes="separate")
    noise = torch.zeros(2, *policy.facts.latent_shape(frames, height, width))
    latents = sample_latents(policy, noise=noise, conditioning=prepared.repeated(2), negative=texts, sampling=sampling)
    for video in latents:
        policy.vae.decode(video[None].to(GPU), return_dict=False)
    del text_encoder
    return gpu.peak


def reward_peak(gpu: PretendedGpu, family: Family, *, frames: int, height: int, width: int, count: int = 1) -> int:
    """Bytes at the peak of decoding the last `count` latent frames of a video and going back to its latents."""
    policy = pretended_policy(family, lora=LoraConfig(), layers=1)
    with torch.device(NOWHERE):
        policy.__dict__["vae"] = AutoencoderKLWan(**family.vae).requires_grad_(False).eval()
    shape = policy.facts.latent_shape(frames, height, width)
    latents = torch.zeros(1, *shape, device=GPU, requires_grad=True)
    gpu.forget_peak()
    before = gpu.live
    policy.decode_frames(latents, shape[1] - count, count).mean().backward()
    return gpu.peak - before


def _frozen(model: nn.Module) -> Any:
    """In bfloat16, but for what Wan keeps in float32."""
    kept: tuple[str, ...] = tuple(model._keep_in_fp32_modules)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if not any(part in name for part in kept):
            parameter.data = parameter.data.to(torch.bfloat16)
    return model.requires_grad_(False).eval()


def _batch(policy: VideoPolicy, shape: tuple[int, ...], step: int) -> Batch:
    def zeros(*size: int) -> TensorData:
        return TensorData("bfloat16", size, np.zeros(2 * int(np.prod(size)), np.uint8))

    facts, framed = policy.facts, None
    if facts.first_frame == "needed":
        framed = zeros(facts.in_channels - facts.channels, *shape[1:])
    embeds = zeros(CLIP_TOKENS, facts.image_dim) if facts.image_dim else None
    texts = zeros(TEXT_TOKENS, TEXT_DIM)
    stored = EncodedCondition(Condition("c", "a video"), texts, frame_latents=framed, frame_embeds=embeds)
    pair = Pair(f"p{step}", "c", "a", "b", zeros(*shape), zeros(*shape), 0, "online")
    return Batch(step, (pair,), {"c": stored}, (0,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    for name, usual in (("frames", 81), ("height", 480), ("width", 832), ("layers", None)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    given = vars(parser.parse_args())
    name = given.pop("family")
    for role, peak in (("learner", learner_peak), ("generator", generator_peak)):
        with pretended_gpu() as gpu:
            size = peak(gpu, FAMILIES[name], **given)
        print(json.dumps({"family": name, **given, "role": role, "gib": round(size / GIB, 1)}), flush=True)


if __name__ == "__main__":
    main()
