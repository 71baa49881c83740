"""A Wan bundle of real size with random weights, to measure what learning costs if the real one is not at hand.

    python -m benchmarks.random_bundle runs/wan2.1-1.3b wan2.1-t2v-1.3b

The transformer and the VAE's factors are Wan's; the text encoder and the VAE themselves are stand-ins of the right
interface, since a learner never loads them. Nothing that it generates means anything.
"""

# diffusers' annotations do not say what it exports.
# pyright: reportPrivateImportUsage=false

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

TOKENIZER = Path("examples/miniature/weights/bundle/tokenizer")

SIZES: dict[str, dict[str, int]] = {
    "wan2.1-t2v-1.3b": {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960},
    "wan2.1-t2v-14b": {"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824},
}
"""What differs between Wan's text-to-video transformers; everything else is diffusers' default, which is Wan's."""

TEXT_DIM = 4096


def transformer(size: str, *, layers: int | None = None) -> WanTransformer3DModel:
    """Wan's architecture of that size on the current default device; `layers` shortens it."""
    given: dict[str, Any] = SIZES[size] | ({"num_layers": layers} if layers is not None else {})
    return WanTransformer3DModel(attention_head_dim=128, text_dim=TEXT_DIM, freq_dim=256, cross_attn_norm=True, **given)


def save_random_bundle(folder: Path, size: str, *, layers: int | None = None) -> None:
    """Write it, the transformer in bfloat16 (2 bytes a parameter). Raises FileExistsError if `folder` is there."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists; give another folder")
    torch.manual_seed(0)
    text = UMT5Config(vocab_size=64, d_model=TEXT_DIM, d_kv=64, d_ff=64, num_layers=1, num_heads=1)
    scheduler: Any = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    model: Any = transformer(size, layers=layers)
    WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(TOKENIZER),
        text_encoder=UMT5EncoderModel(text),
        vae=AutoencoderKLWan(base_dim=8),
        scheduler=scheduler,
        transformer=model.to(torch.bfloat16),
    ).save_pretrained(folder)


def main() -> None:
    """Write the bundle and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--layers", type=int, help="fewer of them, for a trial")
    arguments = parser.parse_args()
    save_random_bundle(arguments.folder, arguments.size, layers=arguments.layers)
    size = sum(file.stat().st_size for file in arguments.folder.rglob("*.safetensors"))
    print(f"{arguments.folder}: {size / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
