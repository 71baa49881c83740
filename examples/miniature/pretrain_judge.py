"""Pretrains the tiny Qwen3-VL on one CPU thread: it learns to see and to compare, and is never told what is better.

    python -m examples.miniature.pretrain_judge --out build/judge --pool drawn.npz --extra generated.npz

What Qwen3-VL brings along has to come from somewhere here: `apogee ranker train` then makes a judge of it. See: the
vision tower alone learns plain facts of each temporal patch (where, how large, how bright, where the head is). Watch:
with the tower held still and its tokens kept, the text model learns plain facts of each video, after it, and where the
answer goes, how the two differ; and which descriptions are of people. Whole: everything together on freshly augmented
videos. Prompts are those that are served (judge_forward.py); the heads that are asked for facts are thrown away.
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

from examples.miniature.judge_data import VideoPool, augment, rendered_pool
from examples.miniature.judge_facts import FACTS, facts_of, watched_facts
from examples.miniature.judge_forward import Judge, check_forward, patches
from examples.miniature.judge_model import build, processor, save
from examples.miniature.muon import Muon
from examples.miniature.world import all_prompts
from ranker.questions import label_ids
from ranker.rubric import DOMAIN_LABELS, domain_prompt

FIRST, SECOND = 16, 4
"""A step shows this many first videos, each before this many second ones."""

MUON = 5.0
"""Muon's learning rate over AdamW's. Of 1, 3 and 10 the last two lower the loss of seeing alike (docs/LOG.md)."""

PEOPLE = ("person", "man", "woman", "boy", "girl", "child", "dancer", "runner", "singer", "face", "hands", "baby")
THINGS = ("circle", "square", "triangle", "car", "dog", "cat", "tree", "river", "mountain", "robot", "boat", "cup")
"""Words for the descriptions whose domain is asked, beside the small world's own."""


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


def seeing_loss(judge: Judge, looks: torch.Tensor, videos: np.ndarray) -> torch.Tensor:
    values, weights = facts_of(videos)
    return (F.smooth_l1_loss(judge.seen(looks), values, reduction="none", beta=0.2) * weights).mean()


def paired(pool: VideoPool, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of some first videos `[FIRST]` and of those that each meets, of its own domain, `[FIRST, SECOND]`."""
    first = rng.integers(len(pool), size=FIRST)
    second = np.stack([rng.choice(np.flatnonzero(pool.human == pool.human[row]), SECOND) for row in first])
    return torch.from_numpy(first), torch.from_numpy(second)


def watching_loss(judge: Judge, looks: torch.Tensor, facts: torch.Tensor, pool: VideoPool, rng) -> dict:
    """Losses: facts of each video of some pairs of `pool` (looks and facts at the same rows), and their differences."""
    one, two = paired(pool, rng)
    answers = judge(looks[one], looks[two], torch.from_numpy(pool.human)[one])
    close = lambda said, true: F.smooth_l1_loss(said, true, beta=0.1)  # noqa: E731
    return {
        "first": close(judge.watched(answers.after_first), facts[one]),
        "second": close(judge.watched(answers.after_second), facts[two]),
        "difference": close(judge.compared(answers.asked), facts[one][:, None] - facts[two]),
    }


def describing_loss(judge: Judge, parts, rng: np.random.Generator, count: int = 32) -> dict:
    """Which descriptions are of people: one digit after the served prompt."""
    texts, right = [], []
    for _ in range(count):
        text, human = described(rng)
        texts.append(domain_prompt(text))
        right.append(DOMAIN_LABELS.index("human" if human else "general"))
    inputs = parts.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    logits = judge.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
    return {"domain": F.cross_entropy(logits, torch.tensor(label_ids(parts.tokenizer))[right])}


def described(rng: np.random.Generator) -> tuple[str, bool]:
    """A description, and whether it is of people: the small world's, or a word among letters that mean nothing."""
    if rng.random() < 0.5:
        domain, prompt = all_prompts()[int(rng.integers(len(all_prompts())))]
        return prompt, domain == "human"
    human = bool(rng.random() < 0.5)
    word = str(rng.choice(PEOPLE if human else THINGS))
    around = ["".join(rng.choice(list("abcdefghiklmnoprstuvw"), int(rng.integers(1, 8)))) for _ in range(4)]
    before = int(rng.integers(5))
    return " ".join([*around[:before], word, *around[before:]]), human


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
    """One stretch of training: the weights of some parts of the judge, warm-up and cosine decay, a printed curve.

    Layers' matrices are moved by Muon, the rest by AdamW: 300 steps of seeing reach what AdamW alone reaches in 700.
    """

    def __init__(self, name: str, judge: Judge, parts: tuple[str, ...], *, steps: int, rate: float) -> None:
        self.name, self.steps = name, steps
        trained = {key: p for key, p in judge.named_parameters() if set(parts) & set(key.split("."))}
        matrices = {key: p for key, p in trained.items() if p.dim() == 2 and {"blocks", "layers"} & set(key.split("."))}
        rest = [p for key, p in trained.items() if key not in matrices]
        groups = [
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": 0.02},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.parameters = list(trained.values())
        self.optimizers = [
            torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98)),
            Muon(list(matrices.values()), lr=MUON * rate, weight_decay=0.02),
        ]
        self.rates = (rate, MUON * rate)
        self.step, self.began, self.seen, self.curve = 0, time.monotonic(), {}, []

    def update(self, losses: dict[str, torch.Tensor]) -> None:
        decay = min(1.0, (self.step + 1) / 60) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * self.step / self.steps)))
        for parameter in self.parameters:
            parameter.grad = None
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * decay
            optimizer.step()
        self.step += 1
        for key, value in losses.items():
            self.seen.setdefault(key, []).append(float(value.detach()))
        if self.step % 50 == 0 or self.step == self.steps:
            row = {"stretch": self.name, "step": self.step, "seconds": round(time.monotonic() - self.began, 1)}
            row |= {key: round(float(np.mean(values)), 4) for key, values in self.seen.items()}
            self.seen = {}
            self.curve.append(row)
            print(json.dumps(row), flush=True)


def see(judge: Judge, source: "Source", args, rng: np.random.Generator) -> list[dict]:
    stretch = Stretch("see", judge, ("visual", "seen"), steps=args.see_steps, rate=args.see_rate)
    for _ in range(args.see_steps):
        videos = source(48).videos
        stretch.update({"seen": seeing_loss(judge, judge.look(patches(videos)), videos)})
    return stretch.curve


def watch(judge: Judge, source: "Source", args, rng: np.random.Generator) -> list[dict]:
    kept, looks = [], []
    with torch.no_grad():
        for _ in range(max(1, args.watch_videos // 500)):
            kept.append(source(500))
            looks.append(judge.look(patches(kept[-1].videos)))
    shown, joined, served = torch.cat(looks), join(kept), processor()
    facts = watched_facts(joined.videos, joined.human)
    parts = ("language_model", "watched", "compared")
    stretch = Stretch("watch", judge, parts, steps=args.watch_steps, rate=args.watch_rate)
    for step in range(args.watch_steps):
        losses = watching_loss(judge, shown, facts, joined, rng)
        if step % 4 == 0:
            losses |= describing_loss(judge, served, rng)
        stretch.update(losses)
    return stretch.curve


def whole(judge: Judge, source: "Source", args, rng: np.random.Generator) -> list[dict]:
    stretch = Stretch(
        "whole", judge, ("model", "seen", "watched", "compared"), steps=args.whole_steps, rate=args.whole_rate
    )
    served = processor()
    for step in range(args.whole_steps):
        pool = source(64)
        looks = judge.look(patches(pool.videos))
        losses = watching_loss(judge, looks, watched_facts(pool.videos, pool.human), pool, rng)
        losses["seen"] = seeing_loss(judge, looks, pool.videos)
        if step % 4 == 0:
            losses |= describing_loss(judge, served, rng)
        stretch.update(losses)
    return stretch.curve


@torch.no_grad()
def reached(judge: Judge, pool: VideoPool) -> dict[str, float]:
    """Of held-out videos that are shown as they are: mean absolute errors, against those of always saying the mean."""
    looks, facts = judge.look(patches(pool.videos)), watched_facts(pool.videos, pool.human)
    rng, errors = np.random.default_rng(1), []
    for _ in range(20):
        one, two = paired(pool, rng)
        answers = judge(looks[one], looks[two], torch.from_numpy(pool.human)[one])
        errors.append((judge.compared(answers.asked) - (facts[one][:, None] - facts[two])).abs().mean((0, 1)))
    spread = (facts[torch.randperm(len(facts))] - facts).abs().mean(0)
    rows = zip(FACTS, torch.stack(errors).mean(0) / spread, strict=True)
    served = processor()
    asked = [describing_loss(judge, served, rng)["domain"] for _ in range(5)]
    return {name: round(float(error), 4) for name, error in rows} | {
        "domain": round(float(torch.stack(asked).mean()), 4)
    }


class Source:
    """Augmented videos, `extra_share` of the draws from those that a generator made."""

    def __init__(self, pool: VideoPool, extra: VideoPool | None, extra_share: float, rng: np.random.Generator) -> None:
        self._pool, self._extra, self._share, self._rng = pool, extra, extra_share, rng

    def __call__(self, count: int) -> VideoPool:
        generated = self._extra is not None and self._rng.random() < self._share
        return draw(self._extra if generated and self._extra is not None else self._pool, count, self._rng)


def join(pools: list[VideoPool]) -> VideoPool:
    return VideoPool(*(np.concatenate(part) for part in zip(*(vars(pool).values() for pool in pools), strict=True)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pool", type=Path, nargs="+", required=True, help="npz of drawn videos (judge_data)")
    parser.add_argument(
        "--extra", type=Path, nargs="*", default=[], help="npz of generated videos that the meter labelled"
    )
    parser.add_argument("--extra-share", type=float, default=0.5, help="share of what is trained on")
    parser.add_argument("--held-out", type=Path, help="npz of generated videos that are only looked at in the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--see-steps", type=int, default=700)
    parser.add_argument("--see-rate", type=float, default=2e-3)
    parser.add_argument("--watch-steps", type=int, default=1500)
    parser.add_argument("--watch-rate", type=float, default=1e-3)
    parser.add_argument("--watch-videos", type=int, default=36_000)
    parser.add_argument("--whole-steps", type=int, default=3000)
    parser.add_argument("--whole-rate", type=float, default=6e-4)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = build(args.out, seed=args.seed)
    start_well(model)
    judge = Judge(model)
    pool = join([VideoPool.load(path) for path in args.pool])
    held = {"drawn": rendered_pool(600, seed=77_777), "unsteady": rendered_pool(600, seed=77_778, wobbly_share=0.85)}
    extra = join([VideoPool.load(path) for path in args.extra]) if args.extra else None
    if args.held_out:
        held["generated"] = VideoPool.load(args.held_out)
    difference = check_forward(judge, pool)
    print(f"forward pass against Hugging Face: {difference:.2e}", flush=True)
    if difference > 1e-3:
        raise AssertionError(f"training's forward pass differs from the checkpoint's by {difference}")
    source = Source(pool, extra, args.extra_share, rng)
    began, curve = time.monotonic(), []
    for name, run in (("see", see), ("watch", watch), ("whole", whole)):
        if getattr(args, f"{name}_steps"):
            curve += run(judge, source, args, rng)
            save(judge.model, args.out)
    seconds = round(time.monotonic() - began, 1)
    save(judge.model, args.out, dtype=torch.bfloat16)
    judge.model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in judge.model.state_dict().items()})
    settings = {key: value.name if isinstance(value, Path) else value for key, value in vars(args).items()}
    settings |= {"pool": [path.name for path in args.pool], "extra": [path.name for path in args.extra]}
    record = {"settings": settings, "parameters": sum(p.numel() for p in model.parameters()), "videos": len(pool)}
    record |= {"seconds": seconds, "curve": curve}
    record["error_of_the_difference"] = {name: reached(judge, rest) for name, rest in held.items()}
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["error_of_the_difference"], indent=1))


if __name__ == "__main__":
    main()
