"""What one pass of the transformer computes, in floating point operations: for pace, and for plans of clusters."""

from math import prod

from policy.bundle import BundleFacts


def forward_flops(facts: BundleFacts, tokens: int, text_tokens: int) -> float:
    """Of one video, forward, without guidance: the multiplications and additions of all blocks.

    Every weight of a block multiplies each of `tokens`, those of cross-attention's keys and values each of
    `text_tokens`. Attention adds four products of tokens, tokens and width, two of them with the text. Backward is
    twice as much.
    """
    flops, width = 0.0, 0
    for name, held in facts.weights[facts.experts[0]].items():
        if not name.startswith("blocks.") or len(held.shape) != 2:
            continue
        of_text = ".attn2." in name and any(part in name for part in ("to_k", "to_v", "add_k", "add_v"))
        flops += 2.0 * prod(held.shape) * (text_tokens if of_text else tokens)
        width = held.shape[0] if ".attn1.to_q." in name else width
    return flops + 4.0 * width * facts.blocks * tokens * (tokens + text_tokens)
