"""Trains the tiny Qwen3-VL to give the four-way verdict, on one CPU thread.

    python -m examples.miniature.train_judge --out examples/miniature/weights/judge
    python -m examples.miniature.train_judge --init FOLDER --extra generated.npz --out ...   # second phase

Three stretches. See: the vision tower alone learns plain facts of each temporal patch (where, how large, how bright),
which are dense signal that verdicts are not. Compare: with the tower held still and its tokens kept, the text model
learns verdicts, and after each video how fast it was and whether it was distorted. Whole: everything together on
freshly augmented videos. Prompts are those that are served (judge_forward.py). The heads of the side questions go.
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

from examples.miniature.judge_data import VideoPool, augment, meetings, rendered_pool
from examples.miniature.judge_forward import SEEN, SLICES, Judge, check_forward, patches
from examples.miniature.judge_model import build, save
from examples.miniature.judge_score import evaluate
from examples.miniature.meter import FOREGROUND
from examples.miniature.world import BACKGROUND, SIZE

FIRST, SECOND = 16, 4
"""A step asks about this many first videos, each against this many second ones."""


def start_well(model: Qwen3VLForConditionalGeneration) -> None:
    """Initial weights at the scale that so narrow layers need; Qwen's 0.02 leaves them silent for hundreds of steps."""
    depth = {"visual": len(model.model.visual.blocks), "language_model": len(model.model.language_model.layers)}
    for name, tensor in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            nn.init.normal_(tensor, std=tensor.shape[1] ** -0.5)
        elif name.endswith("pos_embed.weight"):
            nn.init.normal_(tensor, std=0.3)
        elif tensor.dim() >= 2:
            out = name.endswith(("attn.proj.weight", "o_proj.weight", "mlp.linear_fc2.weight", "down_proj.weight"))
            layers = depth["visual" if ".visual." in name else "language_model"]
            nn.init.normal_(tensor, std=tensor[0].numel() ** -0.5 * ((2 * layers) ** -0.5 if out else 1.0))


def facts_of(videos: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each slice's two frames: centre, area, spread, brightness, peak, and mass in 4x4 cells; and their weights.

    `[n, slices, SEEN]` both; places have no weight where there is no subject.
    """
    ahead, there, area, centre = _subject(np.concatenate([videos, videos[:, -1:]], 1))
    rows, columns, safe = there.sum(3), there.sum(2), np.maximum(area, 4)
    grid = np.arange(SIZE, dtype=np.float32)
    cy, cx = centre[..., 0], centre[..., 1]
    spread = (rows * (grid - cy[..., None]) ** 2).sum(2) + (columns * (grid - cx[..., None]) ** 2).sum(2)
    cells = there.reshape(*there.shape[:2], 4, 8, 4, 8).sum((3, 5)).reshape(*there.shape[:2], 16) / 16
    plain = [(cy - 16) / 5, (cx - 16) / 5, area / 20 - 2, np.sqrt(spread / safe) - 3.5, ahead.mean((2, 3)) / 5 - 1]
    plain.append(ahead.max((2, 3)) / 75 - 2)
    values = np.concatenate([np.stack(plain, -1), cells], -1).astype(np.float32)
    weights = np.full_like(values, 1.0)
    weights[..., 6:] = 0.3
    weights[..., :2] = 4.0 * (area > 4)[..., None]
    weights[..., 2] = 3.0
    weights[..., 3] = area > 4
    shape = (len(videos), SLICES, SEEN)
    return torch.from_numpy(values).reshape(shape), torch.from_numpy(weights).reshape(shape)


def _subject(videos: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distance from the background and membership `[n, frames, h, w]`, area `[n, frames]`, centre `[n, frames, 2]`."""
    ahead = np.abs(videos.astype(np.float32) - BACKGROUND).max(-1)
    there = np.clip((ahead - FOREGROUND / 2) / FOREGROUND, 0, 1)
    area, grid = there.sum((2, 3)), np.arange(SIZE, dtype=np.float32)
    centre = np.stack([(there.sum(3) * grid).sum(2), (there.sum(2) * grid).sum(2)], -1)
    return ahead, there, area, np.where((area > 4)[..., None], centre / np.maximum(area, 4)[..., None], 16)


def watched_facts(videos: np.ndarray) -> torch.Tensor:
    """Of whole videos `[n, 4]`: how far the area strays from its median, up and down, how far the centre leaves its
    straight line, and its speed, each compressed to about one."""
    _, _, area, centre = _subject(videos)
    share = area / np.maximum(np.median(area, 1, keepdims=True), 4)
    known = np.clip(share / 0.35, 0, 1)[..., None]
    times = np.arange(videos.shape[1], dtype=np.float32)[None, :, None]
    total = known.sum(1, keepdims=True) + 1e-3
    late, place = (
        times - (known * times).sum(1, keepdims=True) / total,
        centre - (known * centre).sum(1, keepdims=True) / total,
    )
    slope = (known * late * place).sum(1, keepdims=True) / ((known * late**2).sum(1, keepdims=True) + 1e-3)
    off = np.hypot(*np.moveaxis(known * (place - slope * late), -1, 0)).max(1)
    facts = [np.minimum(share.max(1) - 1, 1.5), 1 - share.min(1), np.log1p(off) - 0.7, np.hypot(*slope[:, 0].T) - 1.2]
    return torch.from_numpy(np.stack(facts, -1).astype(np.float32))


def seeing_loss(judge: Judge, looks: torch.Tensor, videos: np.ndarray) -> torch.Tensor:
    values, weights = facts_of(videos)
    return (F.smooth_l1_loss(judge.seen(looks), values, reduction="none", beta=0.2) * weights).mean()


def verdict_loss(
    judge: Judge,
    looks: torch.Tensor,
    facts: torch.Tensor,
    pool: VideoPool,
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
    aside: float,
) -> tuple[torch.Tensor, np.ndarray]:
    """The loss of pairs among `pool` (looks and facts at the same rows), and which were right `[first, second]`."""
    first, second, label = (torch.from_numpy(part) for part in drawn)
    answers = judge(looks[first], looks[second], torch.from_numpy(pool.human)[first])
    numbers = torch.tensor(judge.labels)
    loss = F.cross_entropy(answers.logits.flatten(0, 1), numbers[label.flatten() - 1])
    if aside:
        distorted = torch.from_numpy(pool.distorted).float()
        for hidden, shown in ((answers.after_first, first), (answers.after_second, second)):
            said = judge.watched(hidden)
            loss = loss + aside * 0.5 * F.binary_cross_entropy_with_logits(said[..., 0], distorted[shown])
            loss = loss + aside * 2 * F.smooth_l1_loss(said[..., 1:], facts[shown], beta=0.1)
    return loss, (answers.logits[..., judge.labels].detach().argmax(-1) + 1 == label).numpy()


def draw(pool: VideoPool, count: int, rng: np.random.Generator) -> VideoPool:
    """`count` augmented videos, a quarter from each of (domain, clean or distorted)."""
    picks = [
        rng.choice(np.flatnonzero((pool.human == human) & (pool.distorted == bad)), count // 4)
        for human in (False, True)
        for bad in (False, True)
    ]
    drawn = pool.take(np.concatenate(picks))
    return VideoPool(augment(drawn.videos, rng), drawn.distorted, drawn.motion, drawn.human)


class Stretch:
    """One stretch of training: an optimizer over some parameters, warm-up and cosine decay, a printed curve."""

    def __init__(self, name: str, judge: Judge, parameters, *, steps: int, rate: float, every: int = 50) -> None:
        self.name, self.judge, self.steps, self.rate, self.every = name, judge, steps, rate, every
        parameters = list(parameters)
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.02},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        self.step, self.began, self.seen, self.curve = 0, time.monotonic(), {}, []

    def update(self, loss: torch.Tensor, **figures: float) -> None:
        for group in self.optimizer.param_groups:
            decay = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * self.step / self.steps))
            group["lr"] = self.rate * min(1.0, (self.step + 1) / 60) * decay
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        for key, value in {"loss": float(loss.detach()), **figures}.items():
            self.seen.setdefault(key, []).append(value)
        if self.step % self.every == 0 or self.step == self.steps:
            row = {"stretch": self.name, "step": self.step, "seconds": round(time.monotonic() - self.began, 1)}
            row |= {key: round(float(np.nanmean(values)), 4) for key, values in self.seen.items()}
            self.seen = {}
            self.curve.append(row)
            print(json.dumps(row), flush=True)


def right_by_kind(right: np.ndarray, label: np.ndarray) -> dict[str, float]:
    return {
        "distortion": float(right[label <= 2].mean()) if (label <= 2).any() else np.nan,
        "motion": float(right[label >= 3].mean()) if (label >= 3).any() else np.nan,
    }


def see(judge: Judge, pool: VideoPool, extra: VideoPool | None, args, rng: np.random.Generator) -> list[dict]:
    parts = [*judge.model.model.visual.parameters(), *judge.seen.parameters()]
    stretch = Stretch("see", judge, parts, steps=args.see_steps, rate=args.see_rate)
    for _ in range(args.see_steps):
        videos = draw(extra if extra is not None and rng.random() < args.extra_share else pool, 48, rng).videos
        stretch.update(seeing_loss(judge, judge.look(patches(videos)), videos))
    return stretch.curve


def compare(judge: Judge, pool: VideoPool, extra: VideoPool | None, args, rng: np.random.Generator) -> list[dict]:
    kept, looks = [], []
    with torch.no_grad():
        for _ in range(max(1, args.compare_videos // 500)):
            kept.append(draw(extra if extra is not None and rng.random() < args.extra_share else pool, 500, rng))
            looks.append(judge.look(patches(kept[-1].videos)))
    seen, joined = torch.cat(looks), join(kept)
    facts = watched_facts(joined.videos)
    parts = [*judge.model.model.language_model.parameters(), *judge.watched.parameters()]
    stretch = Stretch("compare", judge, parts, steps=args.compare_steps, rate=args.compare_rate)
    for step in range(args.compare_steps):
        drawn = meetings(joined, FIRST, SECOND, rng)
        loss, right = verdict_loss(judge, seen, facts, joined, drawn, 1 - 0.9 * step / args.compare_steps)
        stretch.update(loss, **right_by_kind(right, drawn[2]))
    return stretch.curve


def whole(judge: Judge, pool: VideoPool, extra: VideoPool | None, args, rng: np.random.Generator) -> list[dict]:
    stretch = Stretch("whole", judge, judge.parameters(), steps=args.whole_steps, rate=args.whole_rate)
    for _ in range(args.whole_steps):
        source = extra if extra is not None and rng.random() < args.extra_share else pool
        videos = draw(source, 64, rng)
        drawn = meetings(videos, FIRST, SECOND, rng)
        looks = judge.look(patches(videos.videos))
        loss, right = verdict_loss(judge, looks, watched_facts(videos.videos), videos, drawn, 0.3)
        stretch.update(loss, **right_by_kind(right, drawn[2]))
    return stretch.curve


def drawn_pools(count: int, *, seed: int) -> list[VideoPool]:
    """Half as the world draws them, half unsteady as a half-trained generator makes them."""
    return [rendered_pool(count // 2, seed=seed), rendered_pool(count // 2, seed=seed + 1, wobbly_share=0.85)]


def join(pools: list[VideoPool]) -> VideoPool:
    return VideoPool(*(np.concatenate(part) for part in zip(*(vars(pool).values() for pool in pools), strict=True)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="start from this judge folder instead of random weights")
    parser.add_argument("--pool", type=Path, nargs="*", default=[], help="rendered pools saved earlier (else --render)")
    parser.add_argument("--render", type=int, default=48_000, help="how many videos to render for training")
    parser.add_argument(
        "--extra", type=Path, nargs="*", default=[], help="npz of generated videos that the meter labelled"
    )
    parser.add_argument("--extra-share", type=float, default=0.5, help="share of what is trained on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--see-steps", type=int, default=700)
    parser.add_argument("--see-rate", type=float, default=2e-3)
    parser.add_argument("--compare-steps", type=int, default=2200)
    parser.add_argument("--compare-rate", type=float, default=1e-3)
    parser.add_argument("--compare-videos", type=int, default=48_000)
    parser.add_argument("--whole-steps", type=int, default=600)
    parser.add_argument("--whole-rate", type=float, default=2e-4)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    if args.init:
        model = Qwen3VLForConditionalGeneration.from_pretrained(args.init, dtype=torch.float32)
    else:
        model = build(args.out, seed=args.seed)
        start_well(model)
    judge = Judge(model)
    pool = join([VideoPool.load(path) for path in args.pool] or drawn_pools(args.render, seed=args.seed + 1))
    held: dict[str, VideoPool] = dict(zip(("rendered", "unsteady"), drawn_pools(2400, seed=77_777), strict=True))
    extra = join([VideoPool.load(path) for path in args.extra]) if args.extra else None
    if extra is not None:  # every tenth generated video is held out
        rows = np.arange(len(extra))
        held["generated"], extra = extra.take(rows[rows % 10 == 0]), extra.take(rows[rows % 10 != 0])
    difference = check_forward(judge, pool)
    print(f"forward pass against Hugging Face: {difference:.2e}", flush=True)
    if difference > 1e-3:
        raise AssertionError(f"training's forward pass differs from the checkpoint's by {difference}")
    began, curve, reached = time.monotonic(), [], {}
    for name, run in (("see", see), ("compare", compare), ("whole", whole)):
        if getattr(args, f"{name}_steps"):
            curve += run(judge, pool, extra, args, rng)
            save(judge.model, args.out)
            if name != "see":
                reached[name] = {key: evaluate(judge, rest, pairs=2000, seed=1) for key, rest in held.items()}
                print(json.dumps(reached[name]), flush=True)
    seconds = round(time.monotonic() - began, 1)
    save(judge.model, args.out, dtype=torch.bfloat16)
    judge.model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in judge.model.state_dict().items()})
    settings = {key: value.name if isinstance(value, Path) else value for key, value in vars(args).items()}
    settings |= {"pool": [path.name for path in args.pool], "extra": [path.name for path in args.extra]}
    record = {"settings": settings, "parameters": sum(p.numel() for p in model.parameters()), "videos": len(pool)}
    record |= {"seconds": seconds, "curve": curve, "reached": reached}
    record["held_out"] = {name: evaluate(judge, rest, pairs=6000, seed=2) for name, rest in held.items()}
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["held_out"], indent=1))


if __name__ == "__main__":
    main()
