"""Tiny Wan bundles with random weights, saved by diffusers itself as ordinary pipeline folders."""

# pyright: reportPrivateImportUsage=false

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

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


def save_tiny_bundle(folder: Path, *, experts: int = 1, scheduler: str = "unipc", shift: float = 3.0) -> Path:
    """One expert: the miniature's VAE layout (4 x 4 x 4); two experts: Wan's own (4 x 8 x 8), boundary 0.875."""
    torch.manual_seed(7)
    transformers = [_transformer() for _ in range(experts)]
    components: dict[str, Any] = {"tokenizer": _tokenizer(), "scheduler": _scheduler(scheduler, shift)}
    pipe = WanPipeline(
        **components,
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=len(WORDS) + 3, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
        ).eval(),
        vae=_vae(small=experts == 1),
        transformer=transformers[0],
        transformer_2=transformers[1] if experts == 2 else None,
        boundary_ratio=0.875 if experts == 2 else None,
    )
    pipe.save_pretrained(folder)
    return folder


def _transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
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
