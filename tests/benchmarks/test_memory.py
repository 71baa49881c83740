"""The paper's own size fits the GPUs that it is said to fit (GiB at the peak; CUDA itself takes 2 to 4 more)."""

from typing import Any

import pytest
import torch

from benchmarks.memory import FAMILIES, generator_peak, learner_peak, reward_peak
from benchmarks.pretended_gpu import GIB, pretended_gpu

PAPER: dict[str, Any] = {"frames": 121, "height": 720, "width": 960}
USUAL: dict[str, Any] = {"frames": 81, "height": 480, "width": 832}
LAYERS = 40


def peak(measure: Any, family: str, size: dict[str, Any], counts: tuple[int, int]) -> float:
    """Of all 40 blocks, from two counts of blocks: each block that is added takes the same."""
    few, more = (_peak(measure, family, size, layers) for layers in counts)
    return (few + (more - few) / (counts[1] - counts[0]) * (LAYERS - counts[0])) / GIB


def _peak(measure: Any, family: str, size: dict[str, Any], layers: int) -> int:
    with pretended_gpu() as gpu:
        return measure(gpu, FAMILIES[family], layers=layers, **size)


def test_the_pretended_gpu_counts_what_lives_and_refuses_to_mix_devices():
    with pretended_gpu() as gpu:
        weight = torch.nn.Parameter(torch.empty(1024, 1024, device="cuda"))
        hidden = weight @ weight
        assert (gpu.live, gpu.flops) == (2 * 4 * 2**20, 2 * 2**30)
        hidden.sum().backward()
        del hidden
        assert gpu.live == 2 * 4 * 2**20  # the weight and its gradient
        assert gpu.peak >= 3 * 4 * 2**20
        with pytest.raises(RuntimeError, match="same device"):
            _ = weight + torch.ones(1024)
        del weight
        assert gpu.live == 0


@pytest.mark.slow
def test_a14b_at_720x960x121_learns_in_130_gib_and_generates_in_90():
    assert peak(learner_peak, "wan2.2-i2v-a14b", PAPER, (2, 4)) <= 130
    assert peak(generator_peak, "wan2.2-i2v-a14b", PAPER, (1, 2)) <= 90


@pytest.mark.slow
def test_14b_at_480p_learns_in_72_gib():
    assert peak(learner_peak, "wan2.1-t2v-14b", USUAL, (2, 4)) <= 72


@pytest.mark.slow
def test_what_a_reward_of_decoded_frames_takes_does_not_grow_with_the_video():
    """But for the gradient of the latents themselves."""
    sizes = []
    for frames in (81, 241):
        with pretended_gpu() as gpu:
            sizes.append(reward_peak(gpu, FAMILIES["wan2.1-t2v-14b"], frames=frames, height=480, width=832) / GIB)
    assert sizes[1] - sizes[0] < 0.1 and sizes[1] < 34
