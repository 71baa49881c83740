"""The counts of the cost benchmark, on the miniature's bundle."""

import pytest

from benchmarks.learner_step import Counted, count_step, random_batch
from configs.load import load_config
from learner.learner import Learner
from learner.objectives.dpo import Dpo
from policy.policy import VideoPolicy

LAYERS, WIDTH, FFN, TEXT, TEXT_DIM, FREQ = 4, 128, 384, 16, 64, 128
TOKENS = 5 * 4 * 4
"""Of 9 frames of 32 x 32: 5 latent frames of 8 x 8 in patches of 2 x 2."""


LINEARS = {"attn1": 4 * [(TOKENS, WIDTH, WIDTH)], "ffn": [(TOKENS, WIDTH, FFN), (TOKENS, FFN, WIDTH)]}
LINEARS["attn2"] = 2 * [(TOKENS, WIDTH, WIDTH)] + 2 * [(TEXT, WIDTH, WIDTH)]
"""Rows, inputs and outputs of a block's linear layers, read off Wan's architecture."""


def block_flops(*, rank: int) -> int:
    """Of all blocks' forward passes for one video: two for each multiply-add. `rank` 0: without the adapter."""
    layers = [layer for part in LINEARS.values() for layer in part]
    products = sum(rows * (ins * outs + rank * (ins + outs)) for rows, ins, outs in layers)
    attention = 2 * TOKENS * TOKENS * WIDTH + 2 * TOKENS * TEXT * WIDTH
    return 2 * LAYERS * (products + attention)


def forward_flops() -> int:
    """Of the whole reference."""
    patches = 2 * TOKENS * 16 * 4 * WIDTH  # in and out
    embeddings = TEXT * (TEXT_DIM * WIDTH + WIDTH * WIDTH) + FREQ * WIDTH + WIDTH * WIDTH + WIDTH * 6 * WIDTH
    return block_flops(rank=0) + 2 * (patches + embeddings)


def counted(*, checkpointing: bool) -> Counted:
    config = load_config(
        "configs/miniature.yaml",
        ["learner.pairs_per_step=2", "learner.microbatch_pairs=2", f"learner.gradient_checkpointing={checkpointing}"],
    )
    policy = VideoPolicy.load(config.model.path, dtype="float32", lora=config.learner.lora, max_text_tokens=TEXT)
    learner = Learner(policy, config.learner, Dpo(config.learner.beta), sampling_steps=10, seed=0)
    return count_step(learner, policy, random_batch(config, policy, step=0))


def test_rows_and_flops_of_a_step_are_those_of_the_architecture():
    plain, checkpointed = counted(checkpointing=False), counted(checkpointing=True)
    rows = 2 * 2 * 5
    for found in (plain, checkpointed):
        assert (found.rows_with_gradient, found.rows_without) == (rows, rows)
        assert found.forward_flops_of_a_row == forward_flops()
    assert plain.executed_flops > 3 * rows * forward_flops()
    # Checkpointing does the blocks' forward passes with the adapter once more, and nothing else.
    again = checkpointed.executed_flops - plain.executed_flops
    assert again == pytest.approx(rows * block_flops(rank=16), rel=0.01)
