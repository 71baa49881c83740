"""A differentiable reward: how well frames fit a text, by any CLIP-like model; and the control words of SRPO.

A folder as transformers has it (PickScore, any CLIP), or one with the config and tokenizer of CLIP-H and HPS's own
file (`HPS_v2.1_compressed.pt`), whose tensors have open_clip's names.
"""

# transformers' annotations do not say what its calls return.
# pyright: reportPrivateImportUsage=false

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

from configs.keys import shown
from configs.sections import RewardConfig
from policy.weight_files import load_whole, read_json

log = logging.getLogger(__name__)

SCALE = 20.0
"""HPS's and the authors' rewards are cosine times exp(logit scale) / 20: 5 times the cosine with CLIP's usual scale."""

CACHED_TEXTS = 10_000
"""Some 40 MB."""


@dataclass(frozen=True)
class ControlWords:
    """SRPO's words before a prompt: what the pictures are to be more and less like."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]

    @classmethod
    def read(cls, file: str | Path) -> "ControlWords":
        """Raises ValueError or OSError that names the file unless it holds two lists of words that differ."""
        try:
            found = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: is no YAML text ({error})") from None
        names = ("positive", "negative")
        if not isinstance(found, dict) or set(found) != set(names):
            raise ValueError(f"{file}: want the keys positive and negative, a list of control words each")
        for name in names:
            words = found[name]
            if not (isinstance(words, list) and words and all(isinstance(one, str) and one.strip() for one in words)):
                raise ValueError(f"{file}: {name} = {shown(words)}: want a list of words, none of them empty")
        if both := {*found["positive"]} & {*found["negative"]}:
            raise ValueError(f"{file}: {shown(min(both))} is positive and negative: the reward would be of nothing")
        return cls(tuple(found["positive"]), tuple(found["negative"]))

    def at(self, step: int, prompt: str) -> tuple[str, str]:
        """The prompt with the positive word of a step, and with the negative one; both lists go round."""
        words = (self.positive[step % len(self.positive)], self.negative[step % len(self.negative)])
        positive, negative = (f"{word}. {prompt}" for word in words)
        return positive, negative


class WordsFile:
    """Control words that may be changed while a run goes on: the file is read again at every step.

    Raises what `ControlWords.read` raises, if it cannot be read at first. Later the words stay as they were then.
    """

    def __init__(self, file: str | Path) -> None:
        self._file, self._words = Path(file), ControlWords.read(file)

    def now(self) -> ControlWords:
        try:
            words = ControlWords.read(self._file)
        except (ValueError, OSError) as error:
            log.warning("%s; the control words stay %s", error, self._words)
            return self._words
        if words != self._words:
            log.warning("%s: the control words are now %s", self._file, words)
            self._words = words
        return words


class ImageTextReward:
    """Similarity of frames and texts, with its gradient to the frames.

    Raises ValueError or OSError that names the folder if it holds no CLIP-like model, or one that is damaged.
    """

    def __init__(self, path: str | Path, *, device: torch.device | str = "cpu") -> None:
        self.path, self._device = Path(path), device
        self._model = _load(self.path).to(torch.device(device)).requires_grad_(False).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
        self._texts: dict[str, Tensor] = {}
        text = self._model.config.text_config
        self._longest: int = text.max_position_embeddings
        if len(self._tokenizer) > text.vocab_size:
            raise ValueError(
                f"reward.path = {self.path}: its tokenizer has {len(self._tokenizer):,} tokens and its model embeds "
                f"{text.vocab_size:,}: they are not of one model"
            )
        one, two = (self._text(text) for text in ("clean. a dog", "broken. a house"))
        if not (one.isfinite().all() and two.isfinite().all()):
            raise ValueError(f"reward.path = {self.path}: its numbers are not finite; its weights are damaged")
        if torch.equal(one, two):
            raise ValueError(f"reward.path = {self.path}: different texts are the same to it; its weights are damaged")

    def __call__(self, frames: Tensor, texts: list[str]) -> Tensor:
        """`[batch]`: of each video the mean over its frames, each cosine times exp(logit scale) / 20.

        frames: `[batch, frames, 3, height, width]` in [0, 1]; texts: one for each video. Raises FloatingPointError if
        a number is not finite.
        """
        pictures = self._pictures(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        similar = torch.einsum("bfd,bd->bf", pictures, torch.stack([self._text(text) for text in texts]))
        reward = similar.mean(1) * self._model.logit_scale.exp() / SCALE
        if not reward.isfinite().all():
            raise FloatingPointError(f"the reward {self.path} is not finite")
        return reward

    def cut(self, texts: Sequence[str]) -> int:
        """How many texts are longer than the model reads: it sees their beginning."""
        return sum(len(tokens) > self._longest for tokens in self._tokenizer(list(texts))["input_ids"])

    def _pictures(self, pictures: Tensor) -> Tensor:
        """Unit embeddings `[pictures, dim]`: resized and cut as the folder's processor does it, but with a gradient."""
        side, mean, std = self._shape
        height, width = pictures.shape[-2:]
        scale = side / min(height, width)
        size = [max(side, round(height * scale)), max(side, round(width * scale))]
        resized = functional.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        cut = resized[:, :, top : top + side, left : left + side]
        found = self._model.get_image_features((cut - mean) / std)
        return functional.normalize(_features(found).float(), dim=-1)

    @cached_property
    def _shape(self) -> tuple[int, Tensor, Tensor]:
        processor = CLIPImageProcessor.from_pretrained(self.path, local_files_only=True)
        both = (processor.image_mean, processor.image_std)
        mean, std = (torch.tensor(numbers, device=self._device).view(-1, 1, 1) for numbers in both)
        return int(self._model.config.vision_config.image_size), mean, std

    @torch.no_grad()
    def _text(self, text: str) -> Tensor:
        """Unit embedding `[dim]`; a text is encoded once, as long as there are not too many."""
        if text not in self._texts:
            if len(self._texts) >= CACHED_TEXTS:
                self._texts.clear()
            tokens = self._tokenizer(text, truncation=True, max_length=self._longest, return_tensors="pt")
            found = self._model.get_text_features(**tokens.to(self._device))
            self._texts[text] = functional.normalize(_features(found).float(), dim=-1)[0]
        return self._texts[text]


class RewardOfVideos:
    """The reward of whole videos, as numbers, for evaluation; relative if there are control words (d = 0).

    Raises what `WordsFile` raises.
    """

    def __init__(self, settings: RewardConfig) -> None:
        self._settings = settings
        self._words = WordsFile(settings.words) if settings.words else None

    @cached_property
    def _reward(self) -> ImageTextReward:
        """Loaded in the process that asks."""
        return ImageTextReward(self._settings.path)

    @torch.no_grad()
    def __call__(self, frames: np.ndarray, prompt: str) -> float:
        """frames: uint8 `[frames, height, width, 3]`, of which `reward.frames` are looked at."""
        seen = np.linspace(0, len(frames) - 1, min(self._settings.frames, len(frames))).round().astype(int)
        pictures = torch.from_numpy(frames[seen]).permute(0, 3, 1, 2)[None].float() / 255
        if self._words is None:
            return float(self._reward(pictures, [prompt]))
        positive, negative = self._words.now().at(0, prompt)
        return float(self._reward(pictures, [positive]) - self._reward(pictures, [negative]))


def _features(found: Any) -> Tensor:
    """Newer transformers wrap the projected features."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _load(path: Path) -> Any:
    own = sorted(path.glob("*.pt"))
    if not (path / "config.json").is_file():
        raise ValueError(f"reward.path = {path}: holds no config.json; want the folder of a CLIP-like model")
    if (kind := read_json(path / "config.json").get("model_type")) != "clip":
        raise ValueError(f"reward.path = {path}: config.json is of a {kind!r} model, want 'clip'")
    if not own or list(path.glob("*.safetensors")):
        return load_whole(CLIPModel, path, dtype=torch.float32)
    model = CLIPModel(CLIPConfig.from_pretrained(path, local_files_only=True))
    held = torch.load(own[0], map_location="cpu", weights_only=True)
    missing, unknown = model.load_state_dict(from_open_clip(held.get("state_dict", held)), strict=False)
    lacking = [name for name in missing if not name.endswith("position_ids")]
    if lacking or unknown:
        raise ValueError(f"{own[0]}: is not of the model that config.json describes: {(lacking + unknown)[0]}")
    return model


def from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's tensors under the names of transformers' CLIPModel."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        name = name.removeprefix("visual.")
        if name == "proj" or name == "text_projection":
            renamed[f"{'visual' if name == 'proj' else 'text'}_projection.weight"] = tensor.T.contiguous()
        elif block := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name):
            place, inner = f"{tower}.encoder.layers.{block[1]}.", block[2]
            if found := re.fullmatch(r"attn\.in_proj_(weight|bias)", inner):
                for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{place}self_attn.{part}_proj.{found[1]}"] = rows
                continue
            for theirs, ours in _INNER.items():
                inner = inner.replace(theirs, ours)
            renamed[place + inner] = tensor
        elif name == "logit_scale":
            renamed[name] = tensor
        elif name in _OUTER:
            renamed[f"{tower}.{_OUTER[name]}"] = tensor
    return renamed


_INNER = {"ln_": "layer_norm", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "attn.": "self_attn."}
_OUTER = {
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    # transformers' own spelling
    **{f"ln_pre.{part}": f"pre_layrnorm.{part}" for part in ("weight", "bias")},
    **{f"ln_post.{part}": f"post_layernorm.{part}" for part in ("weight", "bias")},
    **{f"ln_final.{part}": f"final_layer_norm.{part}" for part in ("weight", "bias")},
}
