"""The reward against transformers' own processor and model, and HPS's file against open_clip's arithmetic."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from configs.sections import RewardConfig
from learner.reward import ControlWords, ImageTextReward, RewardOfVideos
from tests.learner.tiny_clip import END, HEADS, LAYERS, LONGEST, PATCH, SIDE, VOCABULARY, WIDTH, save_tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


def test_it_is_the_cosine_that_transformers_computes_of_the_same_pictures(folder: Path):
    """Pictures of another aspect are resized and cut alike; PIL rounds to 256 steps between, hence the tolerance."""
    smooth = np.stack([np.linspace(0, 255, 48)] * 32)[..., None].repeat(3, 2)
    pictures = [np.roll(smooth, 7 * n, axis=1).round().astype(np.uint8) for n in range(4)]
    frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().view(2, 2, 3, 32, 48) / 255
    texts = ["clean . a red circle", "broken . a red circle"]
    found = ImageTextReward(folder)(frames, texts)

    model, processor = CLIPModel.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    inputs = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
    with torch.no_grad():
        for place, text in enumerate(texts):
            said = model(**inputs, **tokenizer(text, return_tensors="pt"))
            expected = said.logits_per_image[2 * place : 2 * place + 2, 0].mean() / 20
            assert float(found[place]) == pytest.approx(float(expected), abs=5e-3)
    assert abs(float(found[0] - found[1])) > 1e-3


def test_a_whole_video_has_the_relative_reward_of_its_frames(folder: Path, tmp_path: Path):
    (tmp_path / "words.yaml").write_text("{positive: [clean], negative: [broken]}")
    video = np.random.default_rng(0).integers(0, 256, (9, 24, 24, 3), dtype=np.uint8)
    settings = RewardConfig(path=str(folder), words=str(tmp_path / "words.yaml"), frames=3)
    reward = ImageTextReward(folder)
    seen = torch.from_numpy(video[[0, 4, 8]]).permute(0, 3, 1, 2)[None].float() / 255
    expected = float(reward(seen, ["clean. a red circle"]) - reward(seen, ["broken. a red circle"]))
    of_videos = RewardOfVideos(settings)
    assert of_videos(video, "a red circle") == pytest.approx(expected, abs=1e-6)
    (tmp_path / "words.yaml").write_text("{positive: [clean")  # somebody is changing it: no reason to end an evaluation
    assert of_videos(video, "a red circle") == pytest.approx(expected, abs=1e-6)
    plain = RewardOfVideos(settings.model_copy(update={"words": None}))(video, "a red circle")
    assert plain == pytest.approx(float(reward(seen, ["a red circle"])), abs=1e-6)


def test_its_gradient_reaches_every_frame(folder: Path):
    frames = torch.rand(2, 3, 3, 24, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ImageTextReward(folder)(frames, ["a red circle", "clean"]).sum().backward()
    assert frames.grad is not None and frames.grad.abs().flatten(2).sum(2).min() > 0


class Block(nn.Module):
    """A residual attention block as open_clip writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, 4 * WIDTH))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        inner = self.ln_1(x)
        x = x + self.attn(inner, inner, inner, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Tower()
        self.proj = nn.Parameter(torch.randn(WIDTH, 8))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """open_clip's CLIP, written down again: the names of its tensors are those of HPS's file."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.transformer = Visual(), Tower()
        self.token_embedding = nn.Embedding(len(VOCABULARY), WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(LONGEST, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, 8))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(30.0)))

    def texts(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        x = self.transformer(self.token_embedding(tokens) + self.positional_embedding[:length], mask)
        return self.ln_final(x)[:, -1] @ self.text_projection


def test_hpss_own_file_is_loaded_under_open_clips_names(folder: Path, tmp_path: Path):
    torch.manual_seed(1)
    theirs = OpenClip()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "HPS_v2.1_compressed.pt")
    frames = torch.rand(1, 1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = ImageTextReward(tmp_path)(frames, ["a red circle"])
    processor = CLIPImageProcessor.from_pretrained(folder)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (processor.image_mean, processor.image_std))
    with torch.no_grad():
        cosine = torch.cosine_similarity(
            theirs.visual((frames[0] - mean) / std), theirs.texts(torch.tensor([[1, 2, 3, 4, END]]))
        )
    assert float(found) == pytest.approx(30 / 20 * float(cosine), abs=1e-5)

    held = theirs.state_dict() | {"visual.transformer.resblocks.9.ln_1.weight": torch.ones(WIDTH)}
    torch.save(held, tmp_path / "HPS_v2.1_compressed.pt")
    with pytest.raises(ValueError, match=r"HPS_v2\.1_compressed\.pt.*layers\.9"):
        ImageTextReward(tmp_path)


def test_a_folder_that_is_no_clip_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"reward\.path.*no config\.json"):
        ImageTextReward(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="'bert' model, want 'clip'"):
        ImageTextReward(tmp_path)


def test_a_reward_that_is_not_finite_or_cannot_tell_texts_apart_is_refused(folder: Path, tmp_path: Path):
    for value, said in ((float("nan"), "not finite"), (0.0, "the same")):
        broken = tmp_path / said.replace(" ", "")
        broken.mkdir()
        for file in folder.iterdir():
            (broken / file.name).write_bytes(file.read_bytes())
        model = CLIPModel.from_pretrained(folder)
        model.text_projection.weight.data.fill_(value)
        model.save_pretrained(broken)
        with pytest.raises(ValueError, match=f"{broken}.*{said}"):
            ImageTextReward(broken)


def test_texts_that_are_cut_are_counted_and_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path):
    long = " ".join(["a"] * LONGEST)
    assert ImageTextReward(folder).cut(["a red circle", long, f"{long} a"]) == 2
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(["wide", "tall"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"its tokenizer has 12 tokens and its model embeds 10"):
        ImageTextReward(tmp_path)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("positive: [clean]", "want the keys positive and negative"),
        ("{positive: [], negative: [broken]}", r"positive = \[\]: want a list of words"),
        ("{positive: [' '], negative: [broken]}", "want a list of words, none of them empty"),
        ("{positive: [clean], negative: [clean]}", "'clean' is positive and negative"),
        ("{positive: [clean", "is no YAML text"),
    ],
)
def test_words_that_mean_nothing_are_refused_by_file(tmp_path: Path, written: str, said: str):
    (tmp_path / "words.yaml").write_text(written)
    with pytest.raises(ValueError, match=f"words.yaml: .*{said}"):
        ControlWords.read(tmp_path / "words.yaml")
