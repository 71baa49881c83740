"""A Wan bundle as the rest of Apogee sees it: velocities, prompt embeddings, pixels.

One expert (Wan2.1) or two (Wan2.2-A14B). Loads nothing it is not asked for: a learner never pays for the text
encoder or the VAE, which are read at first use.
"""

# pyright: reportPrivateImportUsage=false

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPVisionModel, UMT5EncoderModel

from configs.sections import LoraConfig
from policy.bundle import BundleFacts, check_bundle
from policy.conditioning import Conditioning, Described
from policy.experts import IdleOnCpu
from policy.lora.adapters import add_adapters
from policy.skeleton import load_scheduler, load_tokenizer, ordinary_words
from policy.weight_files import load_whole
from policy.window import decode_window

AT_ONCE = 2**16
"""Pixels (frames x height x width) that the VAE handles in one call: small videos are 1.7 times faster in groups
(measured on the miniature, one thread), large ones only take more memory."""

CACHED_PROMPTS = 256
"""Prompt embeddings kept; about 1 GiB of a full-size text encoder's (512 tokens x 4096, bf16)."""


@dataclass(eq=False)
class VideoPolicy:
    """The video model with its adapters. Build it with `load`.

    `transformers`: expert name -> frozen base with the adapter "policy" active; `scheduler`: the bundle's own, never
    stepped itself (the sampler steps a copy); `boundary_ratio`: None with one expert; `idle`: what moves the bases of
    two experts, or None if both stay on the device.

    Example: `VideoPolicy.load("examples/miniature/weights/bundle", dtype="float32", lora=config.learner.lora)`
    """

    facts: BundleFacts
    transformers: dict[str, WanTransformer3DModel]
    scheduler: Any
    device: torch.device
    dtype: torch.dtype
    max_text_tokens: int
    idle: IdleOnCpu | None = None

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
        idle_expert: Literal["device", "cpu"] = "device",
    ) -> "VideoPolicy":
        """The bundle at `path`, its base frozen in `dtype`, with new float32 adapters if `lora` is given.

        `experts`: False if only text and pixels are to be encoded or decoded, which needs no transformer.

        `idle_expert`: where the base of the one of two experts is that does not work (`policy/experts.py`).
        `seed`: of the adapters' first weights; a new adapter changes no output (its second matrix is 0).
        Raises what `check_bundle` and `add_adapters` raise.
        """
        facts = check_bundle(path)
        facts.check_text_tokens(max_text_tokens)
        kind: torch.dtype = getattr(torch, dtype)
        wanted = facts.experts if experts else ()
        moves = idle_expert == "cpu" and len(wanted) > 1
        options: dict[str, Any] = {"dtype": kind, "device": "cpu" if moves else device}
        transformers = {name: _load(WanTransformer3DModel, facts, name, **options) for name in wanted}
        scheduler = load_scheduler(facts)
        if lora is not None:
            add_adapters(transformers, lora, seed=seed)
        idle = IdleOnCpu(transformers, torch.device(device)) if moves else None
        return cls(facts, transformers, scheduler, torch.device(device), kind, max_text_tokens, idle)

    @cached_property
    def vae(self) -> AutoencoderKLWan:
        """float32 whatever the policy's dtype: Wan's VAE loses visible quality in bf16."""
        return _load(AutoencoderKLWan, self.facts, "vae", dtype=torch.float32, device=self.device)

    @cached_property
    def _clip(self) -> tuple[Any, Any]:
        """What makes a picture's embeddings: processor and encoder; float32, as Wan's pipeline has it."""
        encoder = _load(CLIPVisionModel, self.facts, "image_encoder", dtype=torch.float32, device=self.device)
        return CLIPImageProcessor.from_pretrained(self.facts.path / "image_processor", local_files_only=True), encoder

    @cached_property
    def _text(self) -> WanPipeline:
        """The text half of the pipeline, so that prompts are cleaned and padded by diffusers' own code.

        Raises ValueError if two different texts get the same embeddings, or some that are not finite.
        """
        encoder = _load(UMT5EncoderModel, self.facts, "text_encoder", dtype=self.dtype, device=self.device)
        others: dict[str, Any] = dict.fromkeys(("transformer", "transformer_2", "vae"))
        text = WanPipeline.from_pretrained(
            self.facts.path, tokenizer=load_tokenizer(self.facts), text_encoder=encoder, local_files_only=True, **others
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
        `conditioning`: from `prepare`, a row per video. What is predicted of a frame that is given means nothing
        (`learned` leaves it out).
        """
        if self.idle is not None:
            self.idle.bring(expert)
        embeds = conditioning.frame_embeds
        if self.facts.expand_timesteps:
            latents = self.with_first_frame(latents, conditioning)
            timestep = self._of_each_token(timestep, latents, conditioning)
        elif conditioning.frame_latents is not None:
            latents = torch.cat([latents, conditioning.frame_latents], dim=1)
        return self.transformers[expert](
            hidden_states=latents.to(self.dtype),
            timestep=timestep,
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            encoder_hidden_states_image=embeds.to(self.dtype) if embeds is not None else None,
            return_dict=False,
        )[0]

    def with_first_frame(self, latents: Tensor, conditioning: Conditioning) -> Tensor:
        """The latents, in TI2V-5B with the given first frame in its place: it has no noise, and timestep 0."""
        given = conditioning.frame_latents
        if given is None or not self.facts.expand_timesteps:
            return latents
        return torch.cat([given.to(latents), latents[:, :, 1:]], dim=2)

    def learned(self, velocity: Tensor, conditioning: Conditioning) -> Tensor:
        """Of a velocity, the frames that are not given: what a loss is taken of."""
        is_given = self.facts.expand_timesteps and conditioning.frame_latents is not None
        return velocity[:, :, 1:] if is_given else velocity

    def _of_each_token(self, timestep: Tensor, latents: Tensor, conditioning: Conditioning) -> Tensor:
        """`[batch]` as `[batch, tokens]`."""
        _, high, wide = self.facts.patch
        frames, height, width = latents.shape[2:]
        of_frames = timestep.float()[:, None].repeat(1, frames)
        if conditioning.frame_latents is not None:
            of_frames[:, 0] = 0.0
        return of_frames.repeat_interleave((height // high) * (width // wide), dim=1)

    def prepare(
        self, conditions: Sequence[Described], *, num_frames: int, texts: Conditioning | None = None
    ) -> Conditioning:
        """The conditions as `velocity` takes them, on the policy's device and in its dtype, a row each.

        texts: what `prompt_embeds` would give, if it is known. Raises ValueError if first frames are missing, or the
        model takes none.
        """
        pictures = [condition.first_frame for condition in conditions if condition.first_frame is not None]
        for condition in conditions:
            self.facts.check_first_frame(condition.prompt, given=condition.first_frame is not None)
        if 0 < len(pictures) < len(conditions):
            raise ValueError(
                f"{len(pictures)} of {len(conditions)} conditions have a first frame: give all of them one"
            )
        texts = texts or self.prompt_embeds([condition.prompt for condition in conditions])
        if not pictures:
            return texts
        return replace(texts, **self._encode_first_frames(np.stack(pictures), num_frames))

    def prompt_embeds(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of prompts alone: of text-to-video, and of the negative prompt of any model.

        Only prompts that were not seen lately go through the text encoder.
        """
        return Conditioning(torch.stack([self._cached_embeds(prompt) for prompt in prompts]))

    @cached_property
    def _cached_embeds(self) -> Callable[[str], Tensor]:
        """`encode_prompts` of one prompt, which remembers the latest ones."""
        return lru_cache(CACHED_PROMPTS)(lambda prompt: self.encode_prompts([prompt])[0])

    @torch.no_grad()
    def _encode_first_frames(self, pictures: np.ndarray, num_frames: int) -> dict[str, Tensor]:
        """`frame_latents` and `frame_embeds` of uint8 `[batch, height, width, 3]`, as diffusers' pipeline makes them.

        The VAE sees a video that is grey after its first frame, or in TI2V-5B the picture alone.
        """
        pixels = self._pixels(pictures[:, None])
        if self.facts.expand_timesteps:
            latents = self._encode_pixels(pixels)
        else:
            latents = self._encode_pixels(functional.pad(pixels, (0, 0, 0, 0, 0, num_frames - 1)))
            mask = torch.zeros_like(latents[:, : self.facts.vae_temporal])
            mask[:, :, 0] = 1.0
            latents = torch.cat([mask, latents], dim=1)
        held = {"frame_latents": latents.to(self.dtype)}
        if self.facts.image_dim is None:
            return held
        processor, encoder = self._clip
        images = processor(images=list(pictures), return_tensors="pt").to(self.device)
        embeds = encoder(**images, output_hidden_states=True).hidden_states[-2]
        return held | {"frame_embeds": embeds.to(self.dtype)}

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

    def decode_frames(self, latents: Tensor, first: int, count: int) -> Tensor:
        """The frames of a few latent frames, with their gradient to `latents` `[batch, ...]`.

        `[batch, 3, frames, height, width]` in [0, 1]; see `policy/window.py`.
        """
        mean, std = self._latent_statistics
        return decode_window(self.vae, latents.float() * std + mean, first, count) / 2 + 0.5

    @torch.no_grad()
    def encode(self, videos: np.ndarray) -> Tensor:
        """Normalised latents of pixels: float32 `[batch, channels, frames, height, width]`, on the CPU.

        `videos`: uint8 `[batch, frames, height, width, 3]`. The posterior's mode, as diffusers encodes a first frame,
        so that the same video has the same latents every time.
        """
        at_once = max(1, AT_ONCE // videos[0, ..., 0].size)
        groups = (videos[start : start + at_once] for start in range(0, len(videos), at_once))
        return torch.cat([self._encode_pixels(self._pixels(group)) for group in groups]).cpu()

    def _pixels(self, videos: np.ndarray) -> Tensor:
        """uint8 `[batch, frames, height, width, 3]` as the VAE takes them, on the policy's device."""
        return torch.from_numpy(videos).to(self.device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        vae, (mean, std) = cast(Any, self.vae), self._latent_statistics
        return (vae.encode(pixels).latent_dist.mode() - mean) / std

    @property
    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the VAE's raw latents, `[1, channels, 1, 1, 1]`."""
        config: Any = self.vae.config
        both = (config.latents_mean, config.latents_std)
        mean, std = (torch.tensor(numbers).view(1, -1, 1, 1, 1).to(self.device) for numbers in both)
        return mean, std


def _load(kind: Any, facts: BundleFacts, component: str, *, dtype: torch.dtype, device: torch.device | str) -> Any:
    """A component, frozen. The modules that Wan keeps in float32 stay so in any `dtype`, as in diffusers' pipeline.

    Its weights are read straight to the device: several processes of a host never hold whole models in its memory.

    Raises ValueError that names the first tensor if its weight files are not those of its config.
    """
    model = load_whole(kind, facts.path / component, dtype=dtype, device_map={"": str(device)})
    return model.requires_grad_(False).eval()


def check_device(device: torch.device | str) -> None:
    """Raises RuntimeError that names the machine unless its GPU computes; asked before gigabytes are read."""
    if torch.device(device).type == "cpu":
        return
    try:
        torch.ones(8, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        raise RuntimeError(
            f"CUDA does not work on {socket.gethostname()}: {error}. PyTorch {torch.__version__} was built for CUDA "
            f"{torch.version.cuda}; `nvidia-smi` names the newest one that the driver of this machine knows"
        ) from error
