"""The arithmetic against PyTorch's own counter, on the real transformer."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from policy.bundle import check_bundle
from policy.flops import forward_flops
from policy.policy import VideoPolicy


@pytest.mark.parametrize("frames", [1, 3, 7])
def test_a_pass_is_what_torch_counts(tiny_bundle: Path, frames: int):
    policy = VideoPolicy.load(tiny_bundle, dtype="float32")
    latents = torch.zeros(1, policy.facts.channels, frames, 16, 16)
    conditioning = policy.prompt_embeds(["a red circle"])
    # As plain matrix products: the counter does not know the CPU's own attention.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        policy.velocity(latents, torch.tensor([500.0]), conditioning, "transformer")
    tokens = frames * 8 * 8
    counted, text = counter.get_total_flops(), conditioning.prompt_embeds.shape[1]
    # The counter also sees the embeddings before the blocks and the projection after them.
    assert 0.8 * counted < forward_flops(check_bundle(tiny_bundle), tokens, text) <= counted
