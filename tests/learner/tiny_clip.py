"""A tiny CLIP with random weights, as transformers saves it."""

# pyright: reportPrivateImportUsage=false

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

VOCABULARY = ["<pad>", "<s>", "a", "red", "circle", "clean", "broken", ".", "moving", "</s>"]
END = len(VOCABULARY) - 1
WIDTH, HEADS, LAYERS, PATCH, SIDE, LONGEST = 16, 2, 2, 4, 16, 12


def save_tiny_clip(out: Path) -> Path:
    """The folder. Do not write to it."""
    torch.manual_seed(0)
    CLIPModel(config()).save_pretrained(out)
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", 1), ("</s>", END)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(out)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(out)
    return out


def config() -> CLIPConfig:
    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS}
    shared |= {"num_attention_heads": HEADS, "hidden_act": "gelu"}
    text = {"vocab_size": len(VOCABULARY), "max_position_embeddings": LONGEST, "bos_token_id": 1, "eos_token_id": END}
    vision = {"image_size": SIDE, "patch_size": PATCH}
    return CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=8)
