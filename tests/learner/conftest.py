"""A tiny random Wan policy and pairs for it: real diffusers, peft and adapters, a few thousand weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from buffers.records import Batch, Condition, EncodedCondition, Pair
from buffers.tensors import encode
from configs.sections import LoraConfig
from policy.bundle import BundleFacts
from policy.lora.adapters import add_adapters, policy_parameters
from policy.policy import VideoPolicy

LATENTS, TOKENS, TEXT_DIM = (4, 2, 4, 4), 3, 8


def make_policy(*, boundary_ratio=None, trained=True, dtype=torch.float32, lora=True):
    """`trained`: the adapter's second matrices are random, so that policy and reference differ."""
    experts = ("transformer",) if boundary_ratio is None else ("transformer", "transformer_2")
    torch.manual_seed(0)
    transformers = {name: tiny_transformer(dtype) for name in experts}
    if lora:
        add_adapters(transformers, LoraConfig(rank=2, alpha=2, targets=["to_q", "to_v", "ffn.net.2"]), seed=5)
    if trained:
        generator = torch.Generator().manual_seed(9)
        for name, parameter in policy_parameters(transformers):
            if "lora_B" in name:
                parameter.data.normal_(0, 0.2, generator=generator)
    return VideoPolicy(
        facts(experts, boundary_ratio),
        transformers=transformers,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        device=torch.device("cpu"),
        dtype=dtype,
        max_text_tokens=TOKENS,
    )


def tiny_transformer(dtype):
    model: Any = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=LATENTS[0],
        out_channels=LATENTS[0],
        text_dim=TEXT_DIM,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    return model.requires_grad_(False).eval().to(dtype)


def facts(experts, boundary_ratio):
    return BundleFacts(
        path=Path("tiny"),
        pipeline="WanPipeline",
        experts=experts,
        boundary_ratio=boundary_ratio,
        patch=(1, 2, 2),
        vae_temporal=4,
        vae_spatial=8,
        scheduler="UniPCMultistepScheduler",
        flow_shift=3.0,
        num_train_timesteps=1000,
        channels=LATENTS[0],
        in_channels=LATENTS[0],
    )


def make_batch(*, step=0, count=4, dtype=torch.float32, poison=None, swap=False):
    """`count` pairs of two conditions; `poison`: the index of a pair whose rejected latents hold a NaN."""
    rng = np.random.default_rng(step)
    pairs = []
    for index in range(count):
        first, second = (torch.from_numpy(rng.standard_normal(LATENTS)).to(dtype) for _ in range(2))
        if index == poison:
            second[0, 0, 0, 0] = float("nan")
        if swap:
            first, second = second, first
        name, condition = f"pair{step}-{index}", f"c{index % 2}"
        pairs.append(Pair(name, condition, f"{name}+", f"{name}-", encode(first), encode(second), 0, "online"))
    texts = np.random.default_rng(77).standard_normal((2, TOKENS, TEXT_DIM)).astype(np.float32)
    conditionings = {
        f"c{i}": EncodedCondition(Condition(f"c{i}", "a video"), encode(torch.from_numpy(text)))
        for i, text in enumerate(texts)
    }
    return Batch(step, tuple(pairs), conditionings, tuple(index % 2 for index in range(count)))


def gradients_of(learner) -> list[torch.Tensor]:
    """A list that the next step fills with the gradient that its optimizer is given, parameter by parameter, flat."""
    found, step = [], learner._optimizer.step

    def look(**options):
        gradients = [parameter.grad for _, parameter in policy_parameters(learner.policy.transformers)]
        found.extend(gradient.clone().flatten() for gradient in gradients if gradient is not None)
        return step(**options)

    learner._optimizer.step = look
    return found


@pytest.fixture(name="make_policy")
def _make_policy():
    return make_policy


@pytest.fixture(name="make_batch")
def _make_batch():
    return make_batch
