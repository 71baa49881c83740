"""The tiny judge's forward pass as pretraining needs it: batched, every served token, nothing computed twice.

All prompts have one layout (rubric, video 1, video 2, question), so the rubric is computed once per domain and a first
video once for all the second videos it meets. `check_forward` holds it to the processor and to Hugging Face's model.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration
from transformers.video_utils import VideoMetadata

from examples.miniature.judge_data import VideoPool
from examples.miniature.judge_facts import FACTS, SEEN
from examples.miniature.judge_model import MERGE, PATCH, processor
from examples.miniature.world import FPS, FRAMES, SIZE
from ranker.rubric import prompt_text

SLICES = (FRAMES + 1) // 2
SIDE = SIZE // PATCH
DOMAINS = ("general", "human")

Memory = list[tuple[torch.Tensor, torch.Tensor]]


class Answers(NamedTuple):
    """`logits` `[first, second, vocab]`; hidden states where the answer goes, `[first, second, width]`, and after the
    videos, `[first, width]` and `[first, second, width]`."""

    logits: torch.Tensor
    asked: torch.Tensor
    after_first: torch.Tensor
    after_second: torch.Tensor


def patches(videos: np.ndarray) -> torch.Tensor:
    """uint8 `[n, 9, 32, 32, 3]` to `[n, slices, 16, 3 * 2 * 8 * 8]`, as Qwen3-VL's video processor does it."""
    pixels = torch.from_numpy(np.concatenate([videos, videos[:, -1:]], 1)).float() / 127.5 - 1
    blocks = SIDE // MERGE
    parts = pixels.view(len(videos), SLICES, 2, blocks, MERGE, PATCH, blocks, MERGE, PATCH, 3)
    parts = parts.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8)
    return parts.reshape(len(videos), SLICES, SIDE * SIDE, -1)


class Judge(nn.Module):
    """The checkpoint's own modules in a batched forward pass, and the heads that only pretraining needs."""

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        width = model.lm_head.in_features
        self.seen = nn.Linear(width, SEEN)
        self.watched, self.compared = nn.Linear(width, len(FACTS)), nn.Linear(width, len(FACTS))
        parts = processor()
        number = parts.tokenizer.convert_tokens_to_ids
        blank = np.zeros((2, FRAMES, SIZE, SIZE, 3), np.uint8)
        inputs = [processed(parts, domain, blank) for domain in DOMAINS]
        self.tokens = torch.cat([item["input_ids"] for item in inputs])
        at = torch.nonzero(self.tokens[0] == number("<|video_pad|>")).flatten()
        one, two = (torch.nonzero(self.tokens[0] == number(f"Video {shown}: ")) for shown in (1, 2))
        self.starts = (int(one), int(two))
        self.at = at.view(2, SLICES) - torch.tensor(self.starts)[:, None]
        positions, _ = model.model.get_rope_index(
            inputs[0]["input_ids"], inputs[0]["mm_token_type_ids"], video_grid_thw=inputs[0]["video_grid_thw"]
        )
        with torch.no_grad():
            self.turns = model.model.language_model.rotary_emb(torch.zeros(1, 1, width), positions)
        row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        self.places = torch.stack([row.flatten(), column.flatten()], -1)

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """`[n, slices, patches, dim]` to merged tokens `[n, slices, width]`; attention stays within a slice."""
        tower = self.model.model.visual
        weight = tower.patch_embed.proj.weight.flatten(1)
        x = F.linear(pixels.flatten(0, 1), weight, tower.patch_embed.proj.bias) + tower.pos_embed.weight
        cos, sin = tower.rotary_pos_emb(x, self.places)
        for block in tower.blocks:
            heads = block.attn.num_heads
            q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            q, k = _turned(q, cos, sin), _turned(k, cos, sin)
            x = x + block.attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            x = x + block.mlp(block.norm2(x))
        return tower.merger(x).view(pixels.shape[0], pixels.shape[1], -1)

    def forward(self, first: torch.Tensor, second: torch.Tensor, human: torch.Tensor) -> Answers:
        """Looks of first videos `[f, slices, width]`, of those each meets `[f, s, slices, width]`, and domains `[f]`.

        The last layer is computed only at the tokens that are read: the ends of both videos and of the prompt.
        """
        embed = self.model.model.language_model.embed_tokens
        one, two = self.starts
        count, others = second.shape[:2]
        _, rubric = self._read(embed(self.tokens[:, :one]), 0, [], slice(0, 0))
        rubric = [(k[human.long()], v[human.long()]) for k, v in rubric]
        shown = embed(self.tokens[human.long(), one:two]).index_copy(1, self.at[0], first)
        after_first, memory = self._read(shown, one, rubric, self.at[0, -1:] + 1)
        memory = [
            (
                torch.cat([old_k, k], 2).repeat_interleave(others, 0),
                torch.cat([old_v, v], 2).repeat_interleave(others, 0),
            )
            for (old_k, old_v), (k, v) in zip(rubric, memory, strict=True)
        ]
        shown = embed(self.tokens[human.long(), two:]).repeat_interleave(others, 0)
        shown = shown.index_copy(1, self.at[1], second.flatten(0, 1))
        asked = torch.stack([self.at[1, -1] + 1, torch.tensor(shown.shape[1] - 1)])
        hidden, _ = self._read(shown, two, memory, asked)
        hidden = hidden.unflatten(0, (count, others))
        return Answers(self.model.lm_head(hidden[:, :, 1]), hidden[:, :, 1], after_first[:, 0], hidden[:, :, 0])

    def _read(self, x: torch.Tensor, start: int, past: Memory, asked) -> tuple[torch.Tensor, Memory]:
        """One stretch of text from position `start`, after `past`: hidden states at `asked`, and its own memory."""
        text, memory = self.model.model.language_model, []
        length = x.shape[1]
        cos, sin = (part[:, start : start + length] for part in self.turns)
        before = torch.ones(length, start + length, dtype=torch.bool).tril(start)
        for number, layer in enumerate(text.layers):
            own, inner = layer.self_attn, layer.input_layernorm(x)
            k = _turned(own.k_norm(own.k_proj(inner).unflatten(-1, (-1, own.head_dim))).transpose(1, 2), cos, sin)
            v = own.v_proj(inner).unflatten(-1, (-1, own.head_dim)).transpose(1, 2)
            memory.append((k, v))
            if past:
                k, v = torch.cat([past[number][0], k], 2), torch.cat([past[number][1], v], 2)
            at = asked if number == len(text.layers) - 1 else slice(None)
            q = own.q_norm(own.q_proj(inner[:, at]).unflatten(-1, (-1, own.head_dim))).transpose(1, 2)
            q = _turned(q, cos[:, at], sin[:, at])
            if q.shape[2] == 0:
                return x[:, at], memory
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=before[at])
            x = x[:, at] + own.o_proj(mixed.transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return text.norm(x), memory


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


def processed(parts, domain, videos: np.ndarray):
    """What Hugging Face's processor makes of the served prompt and two whole videos."""
    facts = [
        VideoMetadata(total_num_frames=FRAMES, fps=FPS, duration=FRAMES / FPS, frames_indices=list(range(FRAMES)))
        for _ in videos
    ]
    return parts(text=[prompt_text(domain)], videos=list(videos), video_metadata=facts, return_tensors="pt")


def check_forward(judge: Judge, pool: VideoPool) -> float:
    """Largest difference in logits between this file's forward pass and the processor with Hugging Face's own model."""
    worst, parts = 0.0, processor()
    for index, domain in enumerate(DOMAINS):
        trio = pool.videos[3 * index : 3 * index + 3]
        with torch.no_grad():
            looks = judge.look(patches(trio))
            ours = judge(looks[:1], looks[None, 1:], torch.tensor([bool(index)])).logits[0]
        for row in (0, 1):
            pair = trio[[0, row + 1]]
            inputs = processed(parts, domain, pair)
            if not torch.allclose(patches(pair).flatten(0, 2), inputs["pixel_values_videos"], atol=1e-5):
                raise AssertionError("patches differ from the processor's")
            with torch.no_grad():
                theirs = judge.model(**inputs).logits[0, -1]
            worst = max(worst, float((theirs - ours[row]).abs().max()))
    return worst
