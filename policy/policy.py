"""A Wan bundle as the rest of Apogee sees it: velocities, prompt embeddings, pixels.

One expert (Wan2.1) or two (Wan2.2-A14B). Loads nothing it is not asked for: a learner never pays for the text
encoder or the VAE, which are read at first use.
"""

# pyright: reportPrivateImportUsage=false

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import Tensor
from transformers import UMT5EncoderModel

from configs.sections import LoraConfig
from policy.bundle import BundleFacts, check_bundle
from policy.conditioning import Conditioning, Described
from policy.lora.adapters import add_adapters
from policy.skeleton import load_scheduler, load_tokenizer, ordinary_words
from policy.weight_files import load_whole

AT_ONCE = 2**16
"""Pixels (frames x height x width) that the VAE handles in one call: small videos are 1.7 times faster in groups
(measured on the miniature, one thread), large ones only take more memory."""

CACHED_PROMPTS = 256
"""Prompt embeddings kept; about 1 GiB of a full-size text encoder's (512 tokens x 4096, bf16)."""


@dataclass(eq=False)
class VideoPolicy:
    """The video model with its adapters. Build it with `load`.

    `transformers`: expert name -> frozen base with the adapter "policy" active; `scheduler`: the bundle's own, never
    stepped itself (the sampler steps a copy); `boundary_ratio`: None with one expert.

    Example: `VideoPolicy.load("examples/miniature/weights/bundle", dtype="float32", lora=config.learner.lora)`
    """

    facts: BundleFacts
    transformers: dict[str, WanTransformer3DModel]
    scheduler: Any
    device: torch.device
    dtype: torch.dtype
    max_text_tokens: int
    _embeds: OrderedDict[str, Tensor] = field(init=False, repr=False, default_factory=OrderedDict)

    @property
    def boundary_ratio(self) -> float | None:
        return self.facts.boundary_ratio

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: str = "bfloat16",
        device: torch.device | str = "cpu",
        lora: LoraConfig | None = None,
        seed: int = 0,
        max_text_tokens: int = 512,
        experts: bool = True,
    ) -> "VideoPolicy":
        """The bundle at `path`, its base frozen in `dtype`, with new float32 adapters if `lora` is given.

        `experts`: False if only text and pixels are to be encoded or decoded, which needs no transformer.

        `seed`: of the adapters' first weights; a new adapter changes no output (its second matrix is 0).
        Raises what `check_bundle` and `add_adapters` raise.
        """
        facts = check_bundle(path)
        kind: torch.dtype = getattr(torch, dtype)
        wanted = facts.experts if experts else ()
        transformers = {name: _load(WanTransformer3DModel, facts, name, dtype=kind).to(device) for name in wanted}
        scheduler = load_scheduler(facts)
        if lora is not None:
            add_adapters(transformers, lora, seed=seed)
        return cls(facts, transformers, scheduler, torch.device(device), kind, max_text_tokens)

    @cached_property
    def vae(self) -> AutoencoderKLWan:
        """float32 whatever the policy's dtype: Wan's VAE loses visible quality in bf16."""
        return _load(AutoencoderKLWan, self.facts, "vae", dtype=torch.float32).to(self.device)

    @cached_property
    def _text(self) -> WanPipeline:
        """The text half of the pipeline, so that prompts are cleaned and padded by diffusers' own code.

        Raises ValueError if two different texts get the same embeddings, or some that are not finite.
        """
        encoder = _load(UMT5EncoderModel, self.facts, "text_encoder", dtype=self.dtype).to(self.device)
        text = WanPipeline.from_pretrained(
            self.facts.path,
            transformer=None,
            transformer_2=None,
            vae=None,
            tokenizer=load_tokenizer(self.facts),
            text_encoder=encoder,
            local_files_only=True,
        )
        one, two = (self._embeds_of(text, word) for word in ordinary_words(text.tokenizer))
        if torch.equal(one, two) or not (one.isfinite().all() and two.isfinite().all()):
            raise ValueError(
                f"{self.facts.path}: the text encoder gives different prompts the same embeddings, or some that are "
                "not finite: its weights or its tokenizer are damaged; download text_encoder and tokenizer again"
            )
        return text

    def expert_at(self, timestep: float) -> str:
        """Which expert inference uses at a timestep in [0, T] (diffusers' rule)."""
        if self.boundary_ratio is None or timestep >= self.boundary_ratio * self.facts.num_train_timesteps:
            return "transformer"
        return "transformer_2"

    def velocity(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, expert: str) -> Tensor:
        """One pass: the predicted `eps - x_0`, `[batch, channels, frames, height, width]` in the policy's dtype.

        `latents`: noisy, normalised; `timestep`: `[batch]` in [0, T], all of the one `expert` that is asked;
        `conditioning`: from `prepare`, a row per video.
        """
        return self.transformers[expert](
            hidden_states=latents.to(self.dtype),
            timestep=timestep,
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            return_dict=False,
        )[0]

    def prepare(self, conditions: Sequence[Described], *, prompt: str | None = None) -> Conditioning:
        """The conditions as `velocity` takes them, on the policy's device, a row each.

        `prompt` replaces every condition's own, for the negative pass of guidance. Only prompts that were not seen
        lately go through the text encoder.
        """
        prompts = [condition.prompt if prompt is None else prompt for condition in conditions]
        unseen = list(dict.fromkeys(text for text in prompts if text not in self._embeds))
        fresh = dict(zip(unseen, self.encode_prompts(unseen), strict=True)) if unseen else {}
        rows = [fresh[text] if text in fresh else self._embeds[text] for text in prompts]
        for text, row in zip(prompts, rows, strict=True):
            self._embeds[text] = row
            self._embeds.move_to_end(text)
        while len(self._embeds) > CACHED_PROMPTS:
            self._embeds.popitem(last=False)
        return Conditioning(torch.stack(rows))

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """`[batch, tokens, dim]` in the policy's dtype, zeros after each prompt's end, as `WanPipeline` has it.

        Each prompt is encoded alone: in a batch the last bits would depend on the other prompts, and a run that goes on
        after a stop would not repeat itself bit for bit.
        """
        return torch.cat([self._embeds_of(self._text, prompt) for prompt in prompts])

    @torch.no_grad()
    def _embeds_of(self, text: WanPipeline, prompt: str) -> Tensor:
        options = {"max_sequence_length": self.max_text_tokens, "device": self.device}
        return text.encode_prompt([prompt], do_classifier_free_guidance=False, **options)[0].to(self.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Pixels of normalised latents `[batch, ...]`: uint8 `[batch, frames, height, width, 3]`."""
        mean, std = self._latent_statistics
        raw = latents.to(self.device, torch.float32) * std + mean
        one_video = raw[0, 0].numel() * self.facts.vae_temporal * self.facts.vae_spatial**2
        groups = raw.split(max(1, AT_ONCE // one_video))
        frames = torch.cat([self.vae.decode(group, return_dict=False)[0] for group in groups])
        pixels = (frames / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()

    @torch.no_grad()
    def encode(self, videos: np.ndarray) -> Tensor:
        """Normalised latents of pixels: float32 `[batch, channels, frames, height, width]`, on the CPU.

        `videos`: uint8 `[batch, frames, height, width, 3]`. The posterior's mode, as diffusers encodes a first frame,
        so that the same video has the same latents every time.
        """
        mean, std = self._latent_statistics
        vae: Any = self.vae
        found = []
        at_once = max(1, AT_ONCE // videos[0, ..., 0].size)
        for start in range(0, len(videos), at_once):
            group = videos[start : start + at_once]
            pixels = torch.from_numpy(group).to(self.device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
            found.append((vae.encode(pixels).latent_dist.mode() - mean) / std)
        return torch.cat(found).cpu()

    @property
    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the VAE's raw latents, `[1, channels, 1, 1, 1]`."""
        config: Any = self.vae.config
        shape = (1, -1, 1, 1, 1)
        return (
            torch.tensor(config.latents_mean, device=self.device).view(shape),
            torch.tensor(config.latents_std, device=self.device).view(shape),
        )


def _load(kind: Any, facts: BundleFacts, component: str, *, dtype: torch.dtype) -> Any:
    """A component, frozen. The modules that Wan keeps in float32 stay so in any `dtype`, as in diffusers' pipeline.

    Raises ValueError that names the first tensor if its weight files are not those of its config.
    """
    model = load_whole(kind, facts.path / component, dtype=dtype)
    return model.requires_grad_(False).eval()
