"""Builds the tiny Qwen3-VL checkpoint folder: config, tokenizer, processor, chat template, random weights.

Everything is Qwen3-VL as it is, only small: the served prompt is the real rubric, but each of its passages (and each
timestamp) is one token of this model's own tokenizer, so that a pair of videos costs about 65 tokens on a CPU.
One merged vision token stands for one temporal patch: two frames of 32x32 in 4x4 patches of 8.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2Tokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from ranker.rubric import GIVEN_FRAME, WHICH_DOMAIN, passages

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PATCH, MERGE = 8, 4
PIXELS = {"shortest_edge": 1024, "longest_edge": 25_165_824}
"""A 32x32 video must be neither enlarged nor shrunk: `shortest_edge` counts pixels over all frames."""

CHAT_TEMPLATE = (
    "{%- set videos = namespace(count=0) -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'video' -%}{%- set videos.count = videos.count + 1 -%}"
    "{%- if add_vision_id -%}{{- 'Video ' ~ videos.count ~ ': ' -}}{%- endif -%}"
    "{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


NEWLINE = "Ċ"
"""A line's end, as byte-level tokenizers write it."""


def tokenizer() -> Qwen2Tokenizer:
    """Bytes, Qwen's special tokens, and one token for each fixed passage of the prompt and each timestamp to 2 s."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    texts = [text for domain in ("human", "general") for text in passages(domain)] + [WHICH_DOMAIN]
    texts += [f"<{tenths / 10:.1f} seconds>" for tenths in range(21)]
    texts += ["system\n", "user\n", "assistant\n", "Video 1: ", "Video 2: ", GIVEN_FRAME]
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in dict.fromkeys(texts)])
    return Qwen2Tokenizer(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,  # pyright: ignore[reportArgumentType]
        bos_token=None,
    )


def processor(chat_template: str = CHAT_TEMPLATE) -> Qwen3VLProcessor:
    """Qwen3-VL's own processor with this model's patch size and a pixel budget that leaves 32x32 as it is."""
    common: dict[str, Any] = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": MERGE, "size": PIXELS}
    mean: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**common, **mean),
        tokenizer=tokenizer(),
        video_processor=Qwen3VLVideoProcessor(**common, **mean, cap_pixels_per_frame=False, do_sample_frames=False),
        chat_template=chat_template,
    )


def config(tokens: Qwen2Tokenizer) -> Qwen3VLConfig:
    """About 2.4M parameters: a vision tower of width 64 and a text model of width 128."""
    number = tokens.get_vocab()
    return Qwen3VLConfig(
        text_config={
            "vocab_size": (len(tokens) + 7) // 8 * 8,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": number["<|endoftext|>"],
        },
        vision_config={
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_heads": 2,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": MERGE,
            "out_hidden_size": 128,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [],
        },
        image_token_id=number["<|image_pad|>"],
        video_token_id=number["<|video_pad|>"],
        vision_start_token_id=number["<|vision_start|>"],
        vision_end_token_id=number["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build(folder: Path, *, seed: int) -> Qwen3VLForConditionalGeneration:
    """Writes the whole folder with random weights and returns the model (float32)."""
    torch.manual_seed(seed)
    parts = processor()
    model = Qwen3VLForConditionalGeneration(config(parts.tokenizer)).float()
    save(model, folder)
    return model


def save(model: Qwen3VLForConditionalGeneration, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """An ordinary Hugging Face folder: weights as safetensors, config, tokenizer, processor, generation config."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = processor()
    given, nothing = parts.tokenizer.convert_tokens_to_ids([GIVEN_FRAME, NEWLINE])
    with torch.no_grad():  # it was never taught with given first frames: that sentence means no more than a line's end
        words: Any = model.get_input_embeddings().weight
        words[given] = words[nothing]
    model.generation_config.eos_token_id = parts.tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = parts.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    state = {name: tensor.detach().to(dtype) for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    settings = json.loads((folder / "config.json").read_text())
    settings["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    parts.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # the weights are written readable by their owner alone
