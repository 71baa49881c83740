"""Fine-tunes the tiny Qwen3-VL to give the four-way verdict, on one CPU thread.

    python -m examples.miniature.train_judge --out examples/miniature/weights/judge
    python -m examples.miniature.train_judge --init FOLDER --extra generated.npz --out ...   # second phase

Every step draws fresh pairs of freshly augmented videos and asks them exactly as they are served: the processor's own
token ids and positions, pixels patched as the processor does (both asserted at the start). Beside the verdict, two
kinds of plain questions give dense signal early on, through heads that are thrown away: each merged vision token is
asked where the subject is and how large, and the text model, after each video, how fast and whether distorted.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration
from transformers.video_utils import VideoMetadata

from examples.miniature.judge_data import VideoPool, augment, draw_pairs, rendered_pool
from examples.miniature.judge_model import MERGE, PATCH, build, processor, save
from examples.miniature.world import BACKGROUND, FPS, FRAMES, SIZE
from ranker.rubric import LABELS, prompt_text

SLICES = (FRAMES + 1) // 2
SIDE = SIZE // PATCH


def patches(videos: np.ndarray) -> torch.Tensor:
    """uint8 `[n, 9, 32, 32, 3]` to `[n, slices, 16, 3 * 2 * 8 * 8]`, as Qwen3-VL's video processor does it."""
    pixels = torch.from_numpy(np.concatenate([videos, videos[:, -1:]], 1)).float() / 127.5 - 1
    blocks = SIDE // MERGE
    parts = pixels.view(len(videos), SLICES, 2, blocks, MERGE, PATCH, blocks, MERGE, PATCH, 3)
    parts = parts.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8)
    return parts.reshape(len(videos), SLICES, SIDE * SIDE, -1)


class Judge(nn.Module):
    """The checkpoint's own modules in a batched forward pass, and the heads that only training needs."""

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        width = model.config.text_config.hidden_size
        self.seen = nn.Linear(width, 8)
        self.watched = nn.Linear(width, 3)
        parts = processor()
        number = parts.tokenizer.convert_tokens_to_ids
        self.labels = [number(label) for label in LABELS]
        inputs = [_processed(parts, domain, np.zeros((2, FRAMES, SIZE, SIZE, 3), np.uint8)) for domain in ("general", "human")]
        self.register_buffer("tokens", torch.cat([item["input_ids"] for item in inputs]), persistent=False)
        self.register_buffer("at", torch.nonzero(self.tokens[0] == number("<|video_pad|>")).flatten(), persistent=False)
        positions, _ = model.model.get_rope_index(
            inputs[0]["input_ids"], inputs[0]["mm_token_type_ids"], video_grid_thw=inputs[0]["video_grid_thw"]
        )
        self.register_buffer("positions", positions, persistent=False)
        row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        self.register_buffer("places", torch.stack([row.flatten(), column.flatten()], -1), persistent=False)

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

    def forward(self, looks: torch.Tensor, first: torch.Tensor, second: torch.Tensor, human: torch.Tensor):
        """Label logits over the whole vocabulary `[n, vocab]` and the hidden states `[n, tokens, width]`."""
        text = self.model.model.language_model
        embeds = text.embed_tokens(self.tokens[human.long()])
        shown = torch.cat([looks[first], looks[second]], 1)
        embeds = embeds.index_copy(1, self.at, shown)
        hidden = text(
            inputs_embeds=embeds, position_ids=self.positions.expand(-1, len(first), -1), use_cache=False
        ).last_hidden_state
        return self.model.lm_head(hidden[:, -1]), hidden


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


def _processed(parts, domain, videos):
    facts = [
        VideoMetadata(total_num_frames=FRAMES, fps=FPS, duration=FRAMES / FPS, frames_indices=list(range(FRAMES)))
        for _ in videos
    ]
    return parts(text=[prompt_text(domain)], videos=list(videos), video_metadata=facts, return_tensors="pt")


def check_forward(judge: Judge, pool: VideoPool) -> float:
    """Largest difference between this file's forward pass and the processor with Hugging Face's own model."""
    worst, parts = 0.0, processor()
    for index, domain in enumerate(("general", "human")):
        pair = pool.videos[2 * index : 2 * index + 2]
        inputs = _processed(parts, domain, pair)
        mine = patches(pair)
        if not torch.allclose(mine.flatten(0, 2), inputs["pixel_values_videos"], atol=1e-5):
            raise AssertionError("patches differ from the processor's")
        with torch.no_grad():
            theirs = judge.model(**inputs).logits[:, -1]
            ours, _ = judge(judge.look(mine), torch.tensor([0]), torch.tensor([1]), torch.tensor([bool(index)]))
        worst = max(worst, float((theirs - ours).abs().max()))
    return worst


def facts_of(videos: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Per slice: centre (y, x) and area of what is not background, for both frames `[n, slices, 8]`, and its weights."""
    there = np.abs(videos.astype(np.float32) - BACKGROUND).sum(-1)
    there = np.clip((there - 60) / 120, 0, 1)
    there = np.concatenate([there, there[:, -1:]], 1)
    area = there.sum((2, 3))
    grid = np.arange(SIZE, dtype=np.float32)
    cy, cx = (there.sum(3) * grid).sum(2), (there.sum(2) * grid).sum(2)
    known = area > 4
    cy, cx = (np.where(known, centre / np.maximum(area, 1), 16) for centre in (cy, cx))
    spread_y = (there.sum(3) * (grid - cy[..., None]) ** 2).sum(2) / np.maximum(area, 4)
    spread_x = (there.sum(2) * (grid - cx[..., None]) ** 2).sum(2) / np.maximum(area, 4)
    spread = np.sqrt(spread_y + spread_x)
    values = np.stack([(cy - 16) / 6, (cx - 16) / 6, area / 40 - 1, spread / 3 - 1], -1)
    weights = np.stack([known, known, np.ones_like(known), known], -1).astype(np.float32)
    shape = (len(videos), SLICES, 8)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape), torch.from_numpy(weights).reshape(shape)


def start_well(model: Qwen3VLForConditionalGeneration) -> None:
    """Initial weights at the scale that so narrow layers need; Qwen's 0.02 leaves them silent for hundreds of steps."""
    depth = {"visual": model.config.vision_config.depth, "language_model": model.config.text_config.num_hidden_layers}
    for name, tensor in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            nn.init.normal_(tensor, std=tensor.shape[1] ** -0.5)
        elif name.endswith("pos_embed.weight"):
            nn.init.normal_(tensor, std=0.3)
        elif tensor.dim() >= 2:
            out = name.endswith(("attn.proj.weight", "o_proj.weight", "mlp.linear_fc2.weight", "down_proj.weight"))
            layers = depth["visual" if ".visual." in name else "language_model"]
            nn.init.normal_(tensor, std=tensor[0].numel() ** -0.5 * ((2 * layers) ** -0.5 if out else 1.0))


def losses(
    judge: Judge, pool: VideoPool, pairs: tuple[np.ndarray, np.ndarray, np.ndarray], aside: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of one step and the label logits `[pairs, 4]`; `aside` weighs the questions beside the verdict."""
    first, second, label = (torch.from_numpy(part) for part in pairs)
    looks = judge.look(patches(pool.videos))
    logits, hidden = judge(looks, first, second, torch.from_numpy(pool.human)[first])
    numbers = torch.tensor(judge.labels)
    loss = F.cross_entropy(logits, numbers[label - 1])
    if aside:
        values, weights = facts_of(pool.videos)
        loss = loss + aside * (F.smooth_l1_loss(judge.seen(looks), values, reduction="none", beta=0.3) * weights).mean() * 3
        distorted = torch.from_numpy(pool.distorted).float()
        motion = torch.from_numpy(pool.motion) - 1.2
        for place, shown in ((SLICES - 1, first), (2 * SLICES - 1, second)):
            said = judge.watched(hidden[:, judge.at[place] + 1])
            loss = loss + aside * 0.5 * F.binary_cross_entropy_with_logits(said[:, 0], distorted[shown])
            loss = loss + aside * F.smooth_l1_loss(said[:, 1], motion[shown], beta=0.3)
    return loss, logits.detach()[:, numbers]


@torch.no_grad()
def evaluate(judge: Judge, pool: VideoPool, *, pairs: int, seed: int) -> dict[str, float]:
    """Accuracy of held-out pairs by kind and domain (both orders averaged), agreement and first-shown rate."""
    judge.eval()
    rng = np.random.default_rng(seed)
    looks = torch.cat([judge.look(patches(pool.videos[i : i + 256])) for i in range(0, len(pool), 256)])
    first, second, label = draw_pairs(pool, pairs, rng)
    human = torch.from_numpy(pool.human)[first]
    forth, back = [], []
    for i in range(0, pairs, 256):
        a, b, h = torch.from_numpy(first[i : i + 256]), torch.from_numpy(second[i : i + 256]), human[i : i + 256]
        forth.append(judge(looks, a, b, h)[0].softmax(-1)[:, judge.labels])
        back.append(judge(looks, b, a, h)[0].softmax(-1)[:, judge.labels][:, [1, 0, 3, 2]])
    one, two = torch.cat(forth), torch.cat(back)
    said = ((one + two) / 2).argmax(-1).numpy() + 1
    alone, swapped = one.argmax(-1).numpy(), two.argmax(-1).numpy()
    right, prefers = said == label, (said % 2) == (label % 2)
    figures = {
        "agreement": float((alone % 2 == swapped % 2).mean()),
        "first_shown": float(((alone % 2 == 0).mean() + (swapped % 2 == 1).mean()) / 2),
        "label_mass": float(torch.minimum(one.sum(-1), two.sum(-1)).mean()),
        "label_accuracy": float(right.mean()),
        "chosen_accuracy": float(prefers.mean()),
        "single_order_label_accuracy": float((alone + 1 == label).mean()),
    }
    bad = pool.distorted
    kinds = {
        "distortion": label <= 2,
        "motion_clean": (label >= 3) & ~bad[first],
        "motion_distorted": (label >= 3) & bad[first],
    }
    for kind, rows in kinds.items():
        for domain, members in (("general", ~pool.human[first]), ("human", pool.human[first])):
            chosen = rows & members
            figures[f"{kind}/{domain}/label"] = float(right[chosen].mean())
            figures[f"{kind}/{domain}/chosen"] = float(prefers[chosen].mean())
    for number in (1, 2, 3, 4):
        figures[f"recall/label_{number}"] = float(right[label == number].mean())
    judge.train()
    return {name: round(value, 4) for name, value in figures.items()}


def batch_of(
    pool: VideoPool, extra: VideoPool | None, share: float, count: int, rng: np.random.Generator
) -> tuple[VideoPool, bool]:
    """Fresh augmented videos of one source: `extra` in `share` of the steps."""
    use_extra = extra is not None and rng.random() < share
    source = extra if use_extra and extra is not None else pool
    quarter = count // 4
    picks = [
        rng.choice(np.flatnonzero((source.human == human) & (source.distorted == bad)), quarter)
        for human in (False, True)
        for bad in (False, True)
    ]
    drawn = source.take(np.concatenate(picks))
    strength = 0.3 if use_extra else float(rng.random() < 0.85)
    return VideoPool(augment(drawn.videos, rng, strength=strength), drawn.distorted, drawn.motion, drawn.human), use_extra


def train(judge: Judge, pool: VideoPool, extra: VideoPool | None, held: dict[str, VideoPool], args) -> dict:
    rng = np.random.default_rng(args.seed)
    rates = [p for n, p in judge.named_parameters() if p.dim() >= 2], [p for n, p in judge.named_parameters() if p.dim() < 2]
    groups = [{"params": rates[0], "weight_decay": args.weight_decay}, {"params": rates[1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    began, seen = time.monotonic(), {"distortion": [], "motion": [], "loss": []}
    curve = []
    for step in range(args.steps):
        warm = min(1.0, (step + 1) / args.warmup)
        decay = 0.5 * (1 + np.cos(np.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * warm * decay
        videos, _ = batch_of(pool, extra, args.extra_share, args.videos, rng)
        pairs = draw_pairs(videos, args.pairs, rng, distortion_share=args.distortion_share)
        loss, logits = losses(judge, videos, pairs, args.aside * (1 - 0.9 * step / args.steps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        said, label = logits.argmax(-1).numpy() + 1, pairs[2]
        for kind, rows in (("distortion", label <= 2), ("motion", label >= 3)):
            seen[kind].append(float((said == label)[rows].mean()))
        seen["loss"].append(float(loss.detach()))
        if (step + 1) % args.log_every == 0:
            row = {"step": step + 1, "seconds": round(time.monotonic() - began, 1)}
            row |= {name: round(float(np.mean(values)), 4) for name, values in seen.items()}
            seen = {name: [] for name in seen}
            if (step + 1) % (5 * args.log_every) == 0:
                for name, rest in held.items():
                    figures = evaluate(judge, rest, pairs=1000, seed=1)
                    row[name] = {key: figures[key] for key in figures if "/" not in key or key.endswith("label")}
                save(judge.model, args.out)
            curve.append(row)
            print(json.dumps(row), flush=True)
    return {"seconds": round(time.monotonic() - began, 1), "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="start from this judge folder instead of random weights")
    parser.add_argument("--pool", type=Path, nargs="*", default=[], help="rendered pools saved earlier (else --render)")
    parser.add_argument("--render", type=int, default=24_000, help="how many videos to render for training")
    parser.add_argument("--extra", type=Path, help="npz of generated videos labelled by the meter")
    parser.add_argument("--extra-share", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--videos", type=int, default=96, help="fresh videos a step")
    parser.add_argument("--pairs", type=int, default=96, help="pairs drawn among them a step")
    parser.add_argument("--distortion-share", type=float, default=0.5)
    parser.add_argument("--aside", type=float, default=1.0, help="weight of the questions beside the verdict, fading")
    parser.add_argument("--log-every", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    if args.init:
        model = Qwen3VLForConditionalGeneration.from_pretrained(args.init, dtype=torch.float32)
    else:
        model = build(args.out, seed=args.seed)
        start_well(model)
    judge = Judge(model)
    pools = [VideoPool.load(path) for path in args.pool] or [rendered_pool(args.render, seed=args.seed + 1)]
    joined = [np.concatenate(part) for part in zip(*(vars(pool).values() for pool in pools), strict=True)]
    pool, held = VideoPool(*joined), {"rendered": rendered_pool(1200, seed=77_777)}
    extra = VideoPool.load(args.extra) if args.extra else None
    if extra is not None:  # every tenth generated video is held out
        rows = np.arange(len(extra))
        held["generated"], extra = extra.take(rows[rows % 10 == 0]), extra.take(rows[rows % 10 != 0])
    difference = check_forward(judge, pool)
    print(f"forward pass against Hugging Face: {difference:.2e}", flush=True)
    if difference > 1e-3:
        raise AssertionError(f"training's forward pass differs from the checkpoint's by {difference}")
    figures = train(judge, pool, extra, held, args)
    save(judge.model, args.out, dtype=torch.bfloat16)
    judge.model.load_state_dict({k: v.bfloat16().float() for k, v in judge.model.state_dict().items()})
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items() if key != "pool"}
    settings["pool"] = [path.name for path in args.pool]
    record = {"settings": settings, "parameters": sum(p.numel() for p in model.parameters()), "videos": len(pool)}
    record |= figures | {"held_out": {name: evaluate(judge, rest, pairs=6000, seed=2) for name, rest in held.items()}}
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["held_out"], indent=1))


if __name__ == "__main__":
    main()
