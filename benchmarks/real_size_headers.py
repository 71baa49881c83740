"""How long the check of a real-size bundle's headers takes: Wan2.2-T2V-A14B's shapes, in files that are holes.

    python -m benchmarks.real_size_headers --folder build/a14b --out benchmarks/results/real_size_headers.json

Every tensor of both experts, the text encoder and the VAE is in the headers, at its real dtype and shape, and the
tokenizer has a vocabulary of the real size; the files take no room on the disk. Seconds are those of one process, after
the imports, and of the imports.
"""

import argparse
import json
import platform
import struct
import time
from pathlib import Path
from typing import Any

TRANSFORMER = {
    "_class_name": "WanTransformer3DModel",
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "in_channels": 16,
    "num_attention_heads": 40,
    "num_layers": 40,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "text_dim": 4096,
}
TEXT_ENCODER = {
    "architectures": ["UMT5EncoderModel"],
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "feed_forward_proj": "gated-gelu",
    "model_type": "umt5",
    "num_heads": 64,
    "num_layers": 24,
    "vocab_size": 256384,
}
VAE = {"_class_name": "AutoencoderKLWan", "base_dim": 96, "z_dim": 16}
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "flow_shift": 3.0,
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
}
INDEX = {
    "_class_name": "WanPipeline",
    "boundary_ratio": 0.875,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
SIZES = {"F32": 4, "BF16": 2}


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_holes(file: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    """A safetensors file with these tensors in its header and nothing but holes behind it."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, size = end, SIZES[dtype]
        for side in shape:
            size *= side
        end = start + size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        opened.truncate(8 + len(text) + end)


def write_tokenizer(folder: Path, words: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, words)}, "<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")
    made.save_pretrained(folder)


def write_bundle(folder: Path) -> None:
    from dataclasses import replace

    from policy.bundle import WAN, weights_of
    from policy.skeleton import skeleton

    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    configs = {"transformer": TRANSFORMER, "transformer_2": TRANSFORMER, "text_encoder": TEXT_ENCODER, "vae": VAE}
    for name, config in configs.items():
        write_json(folder / name / "config.json", config)
        shapes = {key: tuple(t.shape) for key, t in skeleton(replace(WAN, path=folder), name).state_dict().items()}
        write_holes(folder / name / weights_of(name), shapes, "BF16" if name == "text_encoder" else "F32")
    write_tokenizer(folder / "tokenizer", 256300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    started = time.perf_counter()
    import diffusers
    import transformers

    from policy.bundle import CLASSES, check_bundle
    from policy.skeleton import load_scheduler, load_tokenizer, skeleton
    from policy.weight_files import check_weights

    # Both libraries import a class only once it is asked for.
    _ = [getattr(diffusers, name, None) or getattr(transformers, name) for name in CLASSES.values()]
    seconds = {"imports": time.perf_counter() - started}
    if not (options.folder / "model_index.json").exists():
        write_bundle(options.folder)
    started = time.perf_counter()
    facts = check_bundle(options.folder)
    seconds["files and headers"] = time.perf_counter() - started
    for name, held in facts.weights.items():
        started = time.perf_counter()
        check_weights(held, skeleton(facts, name), options.folder / name / "config.json")
        seconds[name] = time.perf_counter() - started
    started = time.perf_counter()
    load_tokenizer(facts)
    load_scheduler(facts)
    seconds["tokenizer and scheduler"] = time.perf_counter() - started
    total = sum(value for name, value in seconds.items() if name != "imports")
    result = {
        "machine": f"{platform.system()} {platform.machine()}",
        "tensors": {name: len(held) for name, held in facts.weights.items()},
        "bytes": sum(path.stat().st_size for path in options.folder.rglob("*.safetensors")),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "seconds_without_imports": round(total, 3),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
