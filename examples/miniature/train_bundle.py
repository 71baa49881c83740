"""Train the miniature's Wan transformer and save the whole text-to-video bundle as a diffusers pipeline folder.

    python -m examples.miniature.train_bundle --vae VAE_FOLDER --out examples/miniature/weights/bundle

The data is distorted in part, and training stops early on purpose: as the paper's base model, it must make a
measurable share of distorted videos, or there is nothing to align. The text encoder is a small UMT5 with random, frozen
weights: it gives each word its own contextual vector, which is all that a vocabulary of 19 words asks for.
"""

# diffusers' annotations say neither what it exports nor what its calls return.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false, reportArgumentType=false

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from examples.miniature.meter import measure
from examples.miniature.muon import Muon
from examples.miniature.world import FPS, FRAMES, SIZE, all_prompts, draw_any, render

TEXT_TOKENS, TEXT_WIDTH = 16, 64
FLOW_SHIFT = 3.0


def build_text_encoder() -> tuple[UMT5EncoderModel, PreTrainedTokenizerFast]:
    """A word-level tokenizer over the world's words, and a random UMT5 encoder of width 64."""
    words = sorted({word for _, prompt in all_prompts() for word in prompt.split()})
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_TOKENS,
        padding_side="right",
    )
    torch.manual_seed(5)
    config = UMT5Config(
        vocab_size=len(vocabulary),
        d_model=TEXT_WIDTH,
        d_kv=16,
        num_heads=4,
        d_ff=128,
        num_layers=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return UMT5EncoderModel(config).eval(), fast


def build_transformer(channels: int) -> WanTransformer3DModel:
    """About 1.1 million parameters; a video is 3 x 4 x 4 = 48 tokens."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=channels,
        out_channels=channels,
        text_dim=TEXT_WIDTH,
        freq_dim=128,
        ffn_dim=384,
        num_layers=4,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )


@torch.no_grad()
def encode_world(vae: AutoencoderKLWan, count: int, seed: int, distorted: bool) -> tuple[torch.Tensor, list[str]]:
    """Normalised latents `[count, channels, 3, 8, 8]` of fresh scenes, and their prompts."""
    rng = np.random.default_rng(seed)
    scenes = [draw_any(rng, distorted) for _ in range(count)]
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    parts = []
    for first in range(0, count, 64):
        video = np.stack([render(scene) for scene in scenes[first : first + 64]])
        tensor = torch.from_numpy(video).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
        parts.append((vae.encode(tensor).latent_dist.mode() - mean) / std)
    return torch.cat(parts), [scene.prompt for scene in scenes]


class PromptTable:
    """Embeddings of all prompts and of the empty prompt, exactly as `WanPipeline` makes them (zero-padded)."""

    def __init__(self, pipe: WanPipeline) -> None:
        self.index = {prompt: i for i, prompt in enumerate(["", *sorted({p for _, p in all_prompts()})])}
        with torch.no_grad():
            embeds = pipe.encode_prompt(
                list(self.index), do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
            )
        self.embeds = embeds[0].float()

    def rows(self, prompts: list[str]) -> torch.Tensor:
        """Indices `[batch]` into `embeds`."""
        return torch.tensor([self.index[prompt] for prompt in prompts])


@torch.no_grad()
def sample_videos(pipe: WanPipeline, prompts: list[str], *, seed: int, steps: int, guidance: float) -> np.ndarray:
    """Plain diffusers' videos of these prompts: uint8 `[prompts, frames, height, width, 3]`."""
    generator = torch.Generator().manual_seed(seed)
    videos = []
    for first in range(0, len(prompts), 32):
        made = pipe(
            prompts[first : first + 32],
            height=SIZE,
            width=SIZE,
            num_frames=FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=TEXT_TOKENS,
            generator=generator,
            output_type="np",
        ).frames
        videos.append((np.asarray(made) * 255).round().astype(np.uint8))
    return np.concatenate(videos)


def evaluate(pipe: WanPipeline, count: int, seed: int, steps: int, guidance: float) -> dict[str, float]:
    """Sample `count` videos with plain diffusers and measure them: distorted share (with reasons) and motion."""
    prompts = [prompt for _, prompt in all_prompts()]
    rng = np.random.default_rng(seed)
    chosen = [prompts[int(rng.integers(len(prompts)))] for _ in range(count)]
    videos = sample_videos(pipe, chosen, seed=seed, steps=steps, guidance=guidance)
    found = [measure(video, prompt) for video, prompt in zip(videos, chosen, strict=True)]
    reasons = {
        f"reason {r}": float(np.mean([m.reason == r for m in found])) for r in {m.reason for m in found if m.reason}
    }
    human = np.array(["person" in prompt for prompt in chosen])
    distorted = np.array([m.distorted for m in found])
    return {
        "videos": float(count),
        "distorted": float(distorted.mean()),
        "distorted human": float(distorted[human].mean()),
        "motion": float(np.mean([m.motion for m in found])),
        **reasons,
    }


def main() -> None:
    """Train, print the distorted share as it falls, save at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--evaluate-every", type=int, default=250)
    parser.add_argument("--distorted-share", type=float, default=0.35)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--init", type=Path, help="go on from this bundle's transformer")
    parser.add_argument("--cache", type=Path, help="keep the encoded scenes here")
    parser.add_argument("--muon", action="store_true", help="Muon for the blocks' matrices, AdamW for the rest")
    parser.add_argument("--compile", action="store_true", help="torch.compile: a fifth faster, needs a C++ compiler")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    vae = AutoencoderKLWan.from_pretrained(arguments.vae).eval()
    text_encoder, tokenizer = build_text_encoder()
    transformer = build_transformer(vae.config.z_dim)
    if arguments.init:
        transformer = WanTransformer3DModel.from_pretrained(arguments.init, subfolder="transformer")
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=FLOW_SHIFT
    )
    pipe = WanPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, scheduler=scheduler, transformer=transformer
    )
    pipe.set_progress_bar_config(disable=True)
    table = PromptTable(pipe)
    if arguments.cache and arguments.cache.exists():
        data = torch.load(arguments.cache, weights_only=True)
    else:
        count = arguments.scenes
        data = {}
        for name, distorted in (("clean", False), ("distorted", True)):
            latents, prompts = encode_world(vae, count, arguments.seed * 1000 + distorted, distorted)
            data[name], data[f"{name}_rows"] = latents, table.rows(prompts)
        if arguments.cache:
            torch.save(data, arguments.cache)
    matrices = [p for n, p in transformer.named_parameters() if arguments.muon and p.ndim == 2 and "blocks" in n]
    others = [p for p in transformer.parameters() if all(p is not matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.95))]
    if matrices:
        optimizers.append(Muon(matrices, lr=1e-3, weight_decay=0.01))
    forward = torch.compile(transformer) if arguments.compile else transformer
    start, batch, log = time.monotonic(), 32, []
    print(f"{sum(p.numel() for p in transformer.parameters()):,} parameters", flush=True)
    for step in range(arguments.steps):
        rate = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / arguments.steps))
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = arguments.rate * max(rate, 0.02)
        bad = torch.rand(batch) < arguments.distorted_share
        pick = torch.randint(len(data["clean"]), (batch,))
        clean = torch.where(bad.view(-1, 1, 1, 1, 1), data["distorted"][pick], data["clean"][pick])
        rows = torch.where(bad, data["distorted_rows"][pick], data["clean_rows"][pick])
        rows = torch.where(torch.rand(batch) < 0.1, 0, rows)
        sigma = torch.rand(batch)
        sigma = FLOW_SHIFT * sigma / (1 + (FLOW_SHIFT - 1) * sigma)
        noise = torch.randn_like(clean)
        noisy = clean + sigma.view(-1, 1, 1, 1, 1) * (noise - clean)
        velocity = forward(noisy, sigma * 1000, table.embeds[rows], return_dict=False)[0]
        loss = (velocity - (noise - clean)).pow(2).mean()
        transformer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.monotonic() - start:.0f} s", flush=True)
        if (step + 1) % arguments.evaluate_every == 0 or step == arguments.steps - 1:
            figures = evaluate(pipe, 192, 11, steps=10, guidance=2.0)
            log.append({"step": step + 1, "seconds": round(time.monotonic() - start), **figures})
            print(json.dumps(log[-1]), flush=True)
            pipe.save_pretrained(arguments.out.parent / f"{arguments.out.name}-{step + 1}")
    pipe.save_pretrained(arguments.out)
    record = {"seed": arguments.seed, "distorted_share": arguments.distorted_share, "fps": FPS, "log": log}
    (arguments.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
