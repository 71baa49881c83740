from pathlib import Path

import pytest
import torch

from benchmarks.pretended_gpu import GPU, pretended_gpu
from configs.sections import LoraConfig, SamplingConfig
from policy.conditioning import Conditioning
from policy.experts import IdleOnCpu
from policy.lora.adapters import add_adapters, freeze_as_reference, policy_parameters
from policy.policy import VideoPolicy
from policy.sampler import draw_noise, sample_latents
from tests.learner.conftest import tiny_transformer

LORA = LoraConfig(rank=2, alpha=2)


def test_videos_are_the_same_wherever_the_idle_expert_is_and_a_video_needs_two_switches(tiny_bundle_two_experts: Path):
    videos = []
    for idle_expert in ("device", "cpu"):
        policy = VideoPolicy.load(
            tiny_bundle_two_experts, dtype="float32", max_text_tokens=16, lora=LORA, idle_expert=idle_expert
        )
        noise = draw_noise(1, (1, *policy.facts.latent_shape(9, 32, 32)))
        embeds = Conditioning(torch.randn(1, 16, policy.facts.text_dim, generator=torch.Generator().manual_seed(0)))
        sampling = SamplingConfig(steps=6, guidance_scale=1.0)
        videos.append(sample_latents(policy, noise=noise, conditioning=embeds, negative=None, sampling=sampling))
        assert (policy.idle.switches if policy.idle else None) == (2 if idle_expert == "cpu" else None)
    assert torch.equal(*videos)


def test_of_two_bases_the_gpu_holds_the_one_that_works_and_always_all_adapters():
    with pretended_gpu() as gpu:
        with torch.device(GPU):
            transformers = {name: tiny_transformer(torch.bfloat16) for name in ("transformer", "transformer_2")}
        add_adapters(transformers, LORA, seed=0)
        before = policy_parameters(transformers)
        idle = IdleOnCpu(transformers, GPU)
        adapters = gpu.live
        size = {}
        for expert in ("transformer", "transformer_2", "transformer"):
            idle.bring(expert)
            size[expert] = gpu.live - adapters
            for name, transformer in transformers.items():
                base = {t.device.type for n, t in transformer.named_parameters() if ".lora_" not in n}
                base |= {t.device.type for t in transformer.buffers()}
                assert base == {"cuda" if name == expert else "cpu"}
        freeze_as_reference(transformers)  # of which the base of one is on the CPU
        for transformer in transformers.values():
            assert {t.device.type for n, t in transformer.named_parameters() if ".lora_" in n} == {"cuda"}
    weights = sum(t.numel() * t.element_size() for t in tiny_base())
    assert size == {name: pytest.approx(weights, rel=0.01) for name in size}
    assert all(one is other for (_, one), (_, other) in zip(before, policy_parameters(transformers), strict=True))
    assert idle.switches == 3


def tiny_base() -> list[torch.Tensor]:
    transformer = tiny_transformer(torch.bfloat16)
    return [*transformer.parameters(), *transformer.buffers()]
