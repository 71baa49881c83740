"""Tiny Wan bundles with random weights, saved by diffusers itself as ordinary pipeline folders."""

# pyright: reportPrivateImportUsage=false

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

WORDS = (
    "a",
    "an",
    "the",
    "red",
    "green",
    "blue",
    "circle",
    "square",
    "person",
    "walking",
    "moving",
    "left",
    "right",
    "up",
    "down",
    "bad",
    "blurry",
    "video",
)


FAMILIES = {
    "Wan2.1-T2V": {},
    "Wan2.1-I2V": {"framed": True, "clip": True},
    "Wan2.2-T2V-A14B": {"experts": 2},
    "Wan2.2-I2V-A14B": {"experts": 2, "framed": True},
    "Wan2.2-TI2V-5B": {"per_token": True},
}
"""Family -> the options that `save_tiny_bundle` makes its like of."""


def save_tiny_bundle(
    folder: Path,
    *,
    experts: int = 1,
    scheduler: str = "unipc",
    shift: float = 3.0,
    framed: bool = False,
    clip: bool = False,
    per_token: bool = False,
) -> Path:
    """One expert: the miniature's VAE layout (4 x 4 x 4); two experts: Wan's own (4 x 8 x 8), boundary 0.875.

    framed: its videos begin with a picture, which is given as channels, with `clip` also as CLIP embeddings. per_token:
    as TI2V-5B, with its VAE layout (4 x 16 x 16). The components are those of diffusers' own tests, or smaller.
    """
    torch.manual_seed(7)
    channels = 48 if per_token else 16
    transformers = [_transformer(channels, framed=framed, clip=clip) for _ in range(experts)]
    components: dict[str, Any] = {"tokenizer": _tokenizer(), "scheduler": _scheduler(scheduler, shift)}
    if clip:
        components |= {"image_encoder": _clip(), "image_processor": CLIPImageProcessor(crop_size=8, size=8)}
    kind: Any = WanImageToVideoPipeline if framed else WanPipeline
    pipe = kind(
        **components,
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=len(WORDS) + 3, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
        ).eval(),
        vae=_vae_of_5b() if per_token else _vae(small=experts == 1),
        transformer=transformers[0],
        transformer_2=transformers[1] if experts == 2 else None,
        boundary_ratio=0.875 if experts == 2 else None,
        expand_timesteps=per_token,
    )
    pipe.save_pretrained(folder)
    return folder


def _transformer(channels: int, *, framed: bool, clip: bool) -> WanTransformer3DModel:
    of_clip: dict[str, Any] = {"image_dim": 4, "added_kv_proj_dim": 24} if clip else {}
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=2 * channels + 4 if framed else channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        **of_clip,
    ).eval()


def _clip() -> CLIPVisionModel:
    torch.manual_seed(9)
    sizes: dict[str, Any] = {
        "hidden_size": 4,
        "projection_dim": 4,
        "intermediate_size": 16,
        "image_size": 8,
        "patch_size": 2,
    }
    return CLIPVisionModel(CLIPVisionConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)).eval()


def _vae_of_5b() -> AutoencoderKLWan:
    torch.manual_seed(8)
    return AutoencoderKLWan(
        base_dim=3,
        z_dim=48,
        in_channels=12,
        out_channels=12,
        is_residual=True,
        patch_size=2,
        latents_mean=[0.1] * 48,
        latents_std=[0.9] * 48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        scale_factor_spatial=16,
    ).eval()


def _vae(*, small: bool) -> AutoencoderKLWan:
    torch.manual_seed(8)
    layout = (
        {"dim_mult": [1, 2, 2], "temperal_downsample": [True, True], "scale_factor_spatial": 4}
        if small
        else {"dim_mult": [1, 1, 1, 1], "temperal_downsample": [False, True, True]}
    )
    return AutoencoderKLWan(base_dim=3, z_dim=16, num_res_blocks=1, **layout).eval()


def _scheduler(kind: str, shift: float) -> UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler:
    if kind == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
