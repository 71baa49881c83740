"""Train the miniature's image-text reward: a tiny CLIP, from drawn frames and what they show.

    python -m examples.miniature.train_reward --bundle examples/miniature/weights/bundle --out build/reward

A text is a prompt, with a control word before it or not: "clean" or "broken". A frame is broken if its subject is
melting, split or gone in it; where a subject has been before, one frame does not show. Frames go through the bundle's
VAE, as those of its videos do. Its AUC is that of the bundle's own videos, clean against distorted as the meter has it.
"""

# transformers' annotations do not say what its calls return.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from buffers.figures import auc
from configs.sections import RewardConfig
from examples.miniature.meter import measure
from examples.miniature.train_bundle import TEXT_TOKENS, sample_videos
from examples.miniature.world import FRAMES, SIZE, all_prompts, draw_any, render
from learner.reward import ControlWords, RewardOfVideos
from policy.policy import VideoPolicy

WORDS_FILE = Path("examples/miniature/prompts/control_words.yaml")
WORDS = ControlWords.read(WORDS_FILE)
END = "</s>"


def model_of(words: list[str]) -> CLIPModel:
    shared = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {"vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": len(words) - 1}
    vision = {"image_size": SIZE, "patch_size": 4}
    return CLIPModel(CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=32))


def tokenizer_of(words: list[str]) -> PreTrainedTokenizerFast:
    """One token a word; the last one ends a text."""
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, len(words) - 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token=END, unk_token="<unk>")


def drawn(policy: VideoPolicy, count: int, seed: int) -> tuple[Tensor, list[str], Tensor]:
    """Frames `[frames, 3, height, width]` in [0, 1] after the VAE, their prompts, and which are broken."""
    rng = np.random.default_rng(seed)
    frames, prompts, broken = [], [], []
    for start in range(0, count, 64):
        scenes = [draw_any(rng, bool(rng.random() < 0.7)) for _ in range(min(64, count - start))]
        videos = np.stack([render(scene) for scene in scenes])
        seen = policy.decode(policy.encode(videos))
        for scene, video, clip in zip(scenes, videos, seen, strict=True):
            whole = render(replace(scene, distortion=None)).astype(float)
            apart = np.abs(video - whole).mean((1, 2, 3)) * (scene.distortion not in (None, "teleport"))
            for place in rng.choice(FRAMES, 3, replace=False):
                frames.append(clip[place])
                prompts.append(scene.prompt)
                broken.append(apart[place] > 1.0)
    stacked = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
    return stacked, prompts, torch.tensor(broken)


def train(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, data, statistics, args) -> None:
    """Each frame has to find its own text among those of the batch and all of them with the other control word."""
    frames, prompts, broken = data
    mean, std = statistics
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.05)
    start, model.logit_scale.data = time.monotonic(), torch.tensor(np.log(20.0), dtype=torch.float32)
    for step in range(args.steps):
        optimizer.param_groups[0]["lr"] = args.rate * min(1, (step + 1) / 100) * (1 - step / args.steps)
        rows = torch.randint(len(frames), (args.batch,))
        own, other = [], []
        for row in rows.tolist():
            texts = WORDS.at(0, prompts[row])
            own.append(texts[int(broken[row])])
            other.append(texts[1 - int(broken[row])])
        plain = [prompts[row] for row in rows.tolist()]
        texts = tokenizer([*own, *other, *plain], return_tensors="pt", padding=True)
        text = functional.normalize(model.get_text_features(**texts).pooler_output, dim=-1)
        picture = functional.normalize(model.get_image_features((frames[rows] - mean) / std).pooler_output, dim=-1)
        own_text, other_text, plain_text = text.chunk(3)
        scale = model.logit_scale.exp()
        same = torch.tensor([[a == b for b in own] for a in own]) & ~torch.eye(len(own), dtype=torch.bool)
        logits = scale * picture @ torch.cat([own_text, other_text]).T
        masked = logits.masked_fill(torch.cat([same, torch.zeros_like(same)], 1), -1e4)
        alike = torch.tensor([[a == b for b in plain] for a in plain]) & ~torch.eye(len(plain), dtype=torch.bool)
        plainly = (scale * picture @ plain_text.T).masked_fill(alike, -1e4)
        target = torch.arange(len(own))
        decided = scale * ((picture * own_text).sum(1) - (picture * other_text).sum(1))
        loss = functional.cross_entropy(masked, target) + functional.cross_entropy(plainly, target)
        loss = loss - functional.logsigmoid(decided).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == args.steps - 1:
            right = (decided > 0).float().mean()
            print(f"step {step} loss {loss.item():.3f} word {right:.3f} {time.monotonic() - start:.0f} s", flush=True)


def evaluate(reward: Path, bundle: Path, count: int, seed: int) -> dict[str, Any]:
    """How well the relative reward tells clean videos of the bundle from distorted ones."""
    rng, pipe = np.random.default_rng(seed), WanPipeline.from_pretrained(bundle)
    prompts = [draw_any(rng).prompt for _ in range(count)]
    videos = sample_videos(pipe, prompts, seed=seed, steps=10, guidance=2.0)
    rated = RewardOfVideos(RewardConfig(path=str(reward), words=str(WORDS_FILE), frames=FRAMES))
    values = [rated(video, prompt) for video, prompt in zip(videos, prompts, strict=True)]
    clean = [not measure(video, prompt).distorted for video, prompt in zip(videos, prompts, strict=True)]
    found = auc(values, clean, prompts=prompts)
    assert found is not None, "some of the bundle's videos are distorted, and some are not"
    return {
        "videos": count,
        "distorted": 1 - float(np.mean(clean)),
        "auc": found["value"],
        "interval": found["interval"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=8)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    policy = VideoPolicy.load(args.bundle, dtype="float32", max_text_tokens=TEXT_TOKENS)
    vocabulary = {word for _, prompt in all_prompts() for word in prompt.split()}
    words = ["<pad>", "<unk>", ".", *sorted(vocabulary | {*WORDS.positive, *WORDS.negative}), END]
    tokenizer, model = tokenizer_of(words), model_of(words)
    pictures = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE)
    statistics = [torch.tensor(numbers).view(3, 1, 1) for numbers in (pictures.image_mean, pictures.image_std)]
    train(model, tokenizer, drawn(policy, args.scenes, 1000 * args.seed), statistics, args)
    for part in (model, tokenizer, pictures):
        part.save_pretrained(args.out)
    figures = evaluate(args.out, args.bundle, 256, 12_345)
    print(json.dumps(figures), flush=True)
    record = {"seed": args.seed, "steps": args.steps, "scenes": args.scenes, **figures}
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
