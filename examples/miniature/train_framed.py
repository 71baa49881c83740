"""Train the miniature's image-to-video model with two experts, from its text-to-video transformer.

    python -m examples.miniature.train_framed --base build/bundle --out build/framed_bundle --cache build/framed.pt

Both experts start as copies of the text-to-video transformer, which takes the first frame as further channels, with
weights of 0. Each learns at the noise levels that inference gives it. As there, the data is distorted in part. The
bundle's VAE, text encoder and tokenizer are links to those of the text-to-video bundle, from folder to folder: the two
are moved together.
"""

# diffusers' annotations say neither what it exports nor what its calls return.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false, reportArgumentType=false

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from torch import Tensor

from configs.sections import SamplingConfig
from examples.miniature.meter import measure
from examples.miniature.muon import Muon
from examples.miniature.train_bundle import FLOW_SHIFT, TEXT_TOKENS
from examples.miniature.world import FPS, FRAMES, SIZE, all_prompts, draw_any, render
from policy.conditioning import Described
from policy.policy import VideoPolicy
from policy.sampler import draw_noise, sample_latents

BOUNDARY = 0.9
"""Wan2.2-I2V-A14B's: of ten steps the high-noise expert has three."""
SHARED = ("vae", "text_encoder", "tokenizer")


def expanded(folder: Path, channels: int) -> WanTransformer3DModel:
    """The transformer of a text-to-video bundle, with so many input channels; it gives the same outputs."""
    plain: Any = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer", dtype=torch.float32)
    model: Any = WanTransformer3DModel.from_config({**plain.config, "in_channels": channels})
    weights = plain.state_dict()
    weight = torch.zeros_like(model.state_dict()["patch_embedding.weight"])
    weight[:, : plain.config.in_channels] = weights["patch_embedding.weight"]
    model.load_state_dict({**weights, "patch_embedding.weight": weight})
    return model


def encoded(policy: VideoPolicy, count: int, seed: int, distorted: bool) -> dict[str, Any]:
    """Fresh scenes: their latents, what their first frames are to the model, and their prompts."""
    rng = np.random.default_rng(seed)
    scenes = [draw_any(rng, distorted) for _ in range(count)]
    latents, frames = [], []
    for first in range(0, count, 64):
        videos = np.stack([render(scene) for scene in scenes[first : first + 64]])
        latents.append(policy.encode(videos))
        frames.append(policy._encode_first_frames(videos[:, 0], FRAMES)["frame_latents"])
    return {"latents": torch.cat(latents), "frames": torch.cat(frames), "prompts": [scene.prompt for scene in scenes]}


def train(
    expert: str, model: WanTransformer3DModel, data: dict[bool, Any], embeds: dict[str, Tensor], args: Any
) -> None:
    """The loss is that of flow matching, at the noise levels of the expert; sigma as the sampler spreads it."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "blocks" in n]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    optimizers = [
        torch.optim.AdamW(others, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.95)),
        Muon(matrices, lr=1e-3, weight_decay=0.01),
    ]
    edge = BOUNDARY / (FLOW_SHIFT - (FLOW_SHIFT - 1) * BOUNDARY)  # the unshifted sigma of the boundary
    low, high = (edge, 1.0) if expert == "transformer" else (0.0, edge)
    start = time.monotonic()
    for step in range(args.steps):
        rate = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = args.rate * max(rate, 0.02)
        bad = torch.rand(args.batch) < args.distorted_share
        pick = torch.randint(args.scenes, (args.batch,)).tolist()
        rows = [(data[is_bad], place) for is_bad, place in zip(bad.tolist(), pick, strict=True)]
        clean = torch.stack([some["latents"][place] for some, place in rows])
        frames = torch.stack([some["frames"][place] for some, place in rows])
        dropped = torch.rand(args.batch) < 0.1
        prompts = [
            "" if drop else some["prompts"][place] for (some, place), drop in zip(rows, dropped.tolist(), strict=True)
        ]
        sigma = low + (high - low) * torch.rand(args.batch)
        sigma = FLOW_SHIFT * sigma / (1 + (FLOW_SHIFT - 1) * sigma)
        noise = torch.randn_like(clean)
        noisy = clean + sigma.view(-1, 1, 1, 1, 1) * (noise - clean)
        text = torch.stack([embeds[prompt] for prompt in prompts])
        velocity = model(torch.cat([noisy, frames], 1), sigma * 1000, text, return_dict=False)[0]
        loss = (velocity - (noise - clean)).square().mean()
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step % 50 == 0:
            print(f"{expert} step {step} loss {loss.item():.4f} {time.monotonic() - start:.0f} s", flush=True)


def save(base: Path, out: Path, experts: dict[str, WanTransformer3DModel]) -> None:
    """The bundle, its transformers in bfloat16."""
    scheduler = UniPCMultistepScheduler.from_pretrained(base, subfolder="scheduler")
    pipe = WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=scheduler,
        image_processor=None,
        image_encoder=None,
        **{name: model.to(torch.bfloat16) for name, model in experts.items()},
        boundary_ratio=BOUNDARY,
    )
    pipe.save_pretrained(out)
    index = json.loads((out / "model_index.json").read_text())
    index |= {name: json.loads((base / "model_index.json").read_text())[name] for name in SHARED}
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for name in SHARED:
        if not (out / name).exists():
            (out / name).symlink_to(os.path.relpath(base.absolute() / name, out.absolute()))


def evaluate(out: Path, count: int, seed: int) -> dict[str, float]:
    """Videos from fresh first frames, measured; and how well they keep the first frame (dB)."""
    policy, rng = VideoPolicy.load(out, dtype="float32", max_text_tokens=TEXT_TOKENS), np.random.default_rng(seed)
    scenes = [draw_any(rng) for _ in range(count)]
    described = [Described(scene.prompt, render(scene)[0]) for scene in scenes]
    sampling = SamplingConfig(steps=10, guidance_scale=2.0)
    shape = policy.facts.latent_shape(FRAMES, SIZE, SIZE)
    found, kept = [], []
    for first in range(0, count, 8):
        some = described[first : first + 8]
        latents = sample_latents(
            policy,
            noise=torch.stack([draw_noise(seed + first + place, shape) for place in range(len(some))]),
            conditioning=policy.prepare(some, num_frames=FRAMES),
            negative=policy.prompt_embeds([""]),
            sampling=sampling,
        )
        for video, each in zip(policy.decode(latents), some, strict=True):
            found.append(measure(video, each.prompt))
            error = np.square(video[0].astype(float) - np.asarray(each.first_frame, float)).mean()
            kept.append(10 * math.log10(255**2 / max(error, 1e-9)))
    return {
        "videos": count,
        "distorted": float(np.mean([each.distorted for each in found])),
        "motion": float(np.mean([each.motion for each in found])),
        "first frame, dB": float(np.mean(kept)),
    }


def main() -> None:
    """Train both experts, save the bundle, measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="the text-to-video bundle")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="keep the encoded scenes here")
    parser.add_argument("--steps", type=int, default=1000, help="of each expert")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--distorted-share", type=float, default=0.2)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=6)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    policy = VideoPolicy.load(args.base, dtype="float32", max_text_tokens=TEXT_TOKENS, experts=False)
    if not args.cache.exists():
        torch.save(
            {bad: encoded(policy, args.scenes, 1000 * args.seed + bad, bad) for bad in (False, True)}, args.cache
        )
    data = torch.load(args.cache, weights_only=True)
    prompts = ["", *sorted({prompt for _, prompt in all_prompts()})]
    embeds = dict(zip(prompts, policy.encode_prompts(prompts), strict=True))
    channels = data[False]["latents"].shape[1] + data[False]["frames"].shape[1]
    experts = {}
    for expert in ("transformer", "transformer_2"):
        experts[expert] = expanded(args.base, channels)
        train(expert, experts[expert], data, embeds, args)
    save(args.base, args.out, experts)
    figures = evaluate(args.out, 192, 11)
    print(json.dumps(figures), flush=True)
    record = {"seed": args.seed, "distorted_share": args.distorted_share, "fps": FPS, "steps": args.steps, **figures}
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
