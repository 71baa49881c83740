"""One whole step of the loop for every Wan family, by the real roles in this process, on tiny random weights.

Videos are made, judged by a function, stored, learned from, the weights swapped, exported, and loaded by diffusers.
"""

# pyright: reportPrivateImportUsage=false

import asyncio
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, WanImageToVideoPipeline, WanPipeline
from PIL import Image

from actors.generator import Generator
from actors.prompts import sized
from buffers.records import Batch, Condition, Request, Scores, Slot
from buffers.replay import ReplayBuffer
from cluster.commands.export import export
from configs.load import load_config
from configs.schema import RunConfig
from configs.sections import RewardConfig, TimestepsConfig
from configs.stages import DirectAlignStage
from learner.learner import Learner
from learner.levels import Levels
from learner.objectives.direct_align import DirectAlign
from learner.objectives.distill import Distill
from learner.objectives.dpo import Dpo
from learner.reward import ImageTextReward, WordsFile
from media.pictures import write_png
from policy.bundle import check_bundle
from policy.conditioning import Conditioning, Described
from policy.lora.adapters import adapter_state, load_lora, save_lora
from policy.lora.files import LORA_FILE, read_layers
from policy.policy import VideoPolicy
from policy.sampler import draw_noise, sample_latents
from tests.learner.tiny_clip import save_tiny_clip
from tests.policy.test_families import CASES
from tests.policy.tiny_bundle import FAMILIES, save_tiny_bundle

PROMPTS, NEGATIVE = ["a red circle", "the blue person walking left"], "bad blurry video"
SIZES, FRAMES, STEPS = [(32, 64), (64, 32)], 9, 4


@dataclass(frozen=True)
class Case:
    """A bundle, a config for it, and two conditions: of 32 x 64 and of 64 x 32 pixels."""

    folder: Path
    framed: bool
    config: RunConfig
    conditions: list[Condition]

    def policy(self) -> VideoPolicy:
        model = self.config.model
        return VideoPolicy.load(
            model.path,
            dtype=model.dtype,
            lora=self.config.learner.lora,
            max_text_tokens=model.max_text_tokens,
            idle_expert=model.idle_expert,
        )


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family, framed = request.param
    folder = tmp_path_factory.mktemp("family")
    bundle = save_tiny_bundle(folder / "bundle", **FAMILIES[family])
    facts = check_bundle(bundle)
    config = load_config(
        Path("configs/miniature.yaml"),
        [
            f"model.path={bundle}",
            f"model.max_text_tokens={512 if facts.image_dim else 16}",
            f"sampling.steps={STEPS}",
            f"sampling.num_frames={FRAMES}",
            f"sampling.pixels={32 * 64}",
            "sampling.aspects=[[64, 32], [32, 64]]",
            "sampling.guidance_scale=2.0",
            f"sampling.negative_prompt={NEGATIVE}",
            "learner.pairs_per_step=2",
            "learner.microbatch_pairs=2",
            "learner.lora={rank: 4, alpha: 6}",
            "learner.learning_rate=0.01",
            "learner.timesteps.high=1",
            "learner.timesteps.low=1",
        ],
    )
    conditions, rng = [], np.random.default_rng(1)
    for number, (prompt, (height, width)) in enumerate(zip(PROMPTS, SIZES, strict=True)):
        picture = folder / f"{number}.png"
        write_png(picture, rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        conditions.append(Condition(f"c{number}", prompt, picture=str(picture)))
    conditions = sized(conditions, config.sampling, grid=facts.grid, seed=config.seed)
    assert [each.size for each in conditions] == SIZES
    if not framed:
        conditions = [replace(each, picture=None) for each in conditions]
    return Case(bundle, framed, config, conditions)


def made(case: Case, generator: Generator, folder: Path) -> list[Batch]:
    """Batches of two pairs, of one shape each: the brighter video of a pair is the better one."""

    async def batches() -> list[Batch]:
        settings = case.config.buffer.model_copy(update={"max_uses": 4})
        buffer = ReplayBuffer(settings, folder=folder, seed=0)
        for number, condition in enumerate(case.conditions):
            request = Request((condition,), ((2 * number, 2 * number + 1),), Slot("online", number))
            candidates, clips, _ = generator.generate(request)
            scores = [Scores(float(clip.video_a.mean()), float(clip.video_b.mean())) for clip in clips]
            assert await buffer.add(candidates, scores, request) == 1
        taken = [await buffer.take(step, 2) for step in range(4)]
        await buffer.close()
        return [batch for batch in taken if batch is not None]

    return asyncio.run(batches())


def learner_of(case: Case, policy: VideoPolicy) -> Learner:
    learner = case.config.learner
    return Learner(policy, learner, Dpo(learner.beta), sampling_steps=STEPS, seed=0)


def test_learn(case: Case, tmp_path: Path) -> None:
    batches = made(case, Generator(case.config), tmp_path)
    assert len({shape for batch in batches for shape in batch.shapes}) == 2
    policy = case.policy()
    learner, before = learner_of(case, policy), adapter_state(policy.transformers)
    first, *others = [learner.step(batch) for batch in batches]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) and first["drift"] == pytest.approx(0.0, abs=1e-9)
    assert all(step["drift"] > 0 for step in others)
    after = adapter_state(policy.transformers)
    for expert in policy.transformers:
        assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith(f"{expert}."))
        assert first["experts"][expert] == 2 // len(policy.transformers)


def test_distill(case: Case, tmp_path: Path) -> None:
    batches = made(case, Generator(case.config), tmp_path)
    policy = case.policy()
    teacher = Distill(
        case.config.sampling,
        {expert: [4.0, 4.0] for expert in policy.transformers},
        [0.0, 0.0],
        policy.prompt_embeds([NEGATIVE]),
    )
    learner = Learner(policy, case.config.learner, teacher, sampling_steps=STEPS, seed=0)
    losses = [learner.step(Batch(step, *_of(batches[step % 4])))["loss"] for step in range(12)]
    assert losses[0] > 0 and np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_learn_from_a_reward(case: Case, tmp_path: Path) -> None:
    batches = made(case, Generator(case.config), tmp_path / "buffer")
    policy, clip, words = case.policy(), save_tiny_clip(tmp_path / "clip"), tmp_path / "words.yaml"
    words.write_text("{positive: [clean], negative: [broken]}")
    timesteps = TimestepsConfig(kind="levels", levels=[0.05, 0.9])
    levels = Levels(timesteps, policy.scheduler, STEPS, boundary_ratio=policy.boundary_ratio)
    stage = DirectAlignStage(kind="direct_align", inversion=True, motion_pull=0.1)
    settings = RewardConfig(path=str(clip), words=str(words), latent_frames=2)
    align = DirectAlign(stage, settings, ImageTextReward(clip), WordsFile(words), levels)
    config = case.config.learner.model_copy(update={"timesteps": timesteps, "learning_rate": 1e-3})
    learner, before = Learner(policy, config, align, sampling_steps=STEPS, seed=0), adapter_state(policy.transformers)
    rows = [learner.step(Batch(step, *_of(batches[step % 4]))) for step in range(8)]
    assert rows[0]["drift"] == pytest.approx(0.0, abs=1e-8) and rows[-1]["drift"] > 0
    assert all(math.isfinite(row["reward"]) and row["motion_kept"] > 0 for row in rows)
    assert sum(sum(row["experts"].values()) for row in rows) == 8
    after = adapter_state(policy.transformers)
    for expert in {name for row in rows for name, count in row["experts"].items() if count}:
        assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith(f"{expert}."))


def _of(batch: Batch) -> Any:
    return batch.pairs, batch.conditionings, batch.staleness, batch.shapes


def test_swap_weights(case: Case, tmp_path: Path) -> None:
    generator, policy = Generator(case.config), case.policy()
    batches = made(case, generator, tmp_path)
    learner = learner_of(case, policy)
    learner.step(batches[0])
    snapshot = learner.snapshot(1)
    receipt = generator.load_weights(snapshot)
    assert (receipt.version, receipt.checksum, receipt.parameters) == (1, snapshot.checksum, len(snapshot.adapter))
    assert {name.split(".")[0] for name in snapshot.adapter} == set(policy.transformers)
    again = made(case, generator, tmp_path / "again")
    assert [pair.policy_version for pair in again[0].pairs] == [1, 1]
    one, other = (batch[0].pairs[0].chosen.data for batch in (batches, again))
    assert not np.array_equal(one, other)


def trained(case: Case, folder: Path) -> tuple[VideoPolicy, Path]:
    """The policy after two steps, and its adapter's folder."""
    policy = case.policy()
    learner = learner_of(case, policy)
    for batch in made(case, Generator(case.config), folder / "buffer")[:2]:
        learner.step(batch)
    save_lora(folder / "adapter", policy.transformers, case.config.learner.lora)
    return policy, folder / "adapter"


def ours(case: Case, policy: VideoPolicy) -> torch.Tensor:
    """Latents of the first condition."""
    (height, width), framed = (32, 64), case.conditions[0].picture
    picture = np.asarray(Image.open(framed)) if framed else None
    return sample_latents(
        policy,
        noise=draw_noise(3, policy.facts.latent_shape(FRAMES, height, width))[None],
        conditioning=policy.prepare([Described(PROMPTS[0], picture)], num_frames=FRAMES),
        negative=Conditioning(policy.encode_prompts([NEGATIVE])),
        sampling=case.config.sampling,
    )


def by_diffusers(case: Case, pipe: Any, policy: VideoPolicy) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    picture = case.conditions[0].picture
    return pipe(
        **({"image": Image.open(picture)} if picture else {}),
        prompt=PROMPTS[0],
        negative_prompt=NEGATIVE,
        height=32,
        width=64,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=2.0,
        latents=draw_noise(3, policy.facts.latent_shape(FRAMES, 32, 64))[None],
        output_type="latent",
        max_sequence_length=policy.max_text_tokens,
    ).frames


def test_export_and_reload(case: Case, tmp_path: Path) -> None:
    policy, adapter = trained(case, tmp_path)
    wanted = ours(case, policy)
    fresh = case.policy()
    assert float((ours(case, fresh) - wanted).abs().max()) > 1e-3
    load_lora(adapter, fresh.transformers)
    torch.testing.assert_close(ours(case, fresh), wanted, atol=1e-6, rtol=0)

    kind: Any = WanImageToVideoPipeline if case.framed else WanPipeline
    pipe = kind.from_pretrained(case.folder, dtype=torch.float32)
    pipe.load_lora_weights(adapter)
    if policy.boundary_ratio is not None:
        pipe.load_lora_weights(adapter / "transformer_2", load_into_transformer_2=True)
    torch.testing.assert_close(by_diffusers(case, pipe, policy), wanted, atol=1e-4, rtol=0)

    export(adapter, "merged", tmp_path / "merged", model=case.folder)
    merged: Any = kind.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(by_diffusers(case, merged, policy), wanted, atol=1e-4, rtol=0)
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "merged")).__name__ == policy.facts.pipeline

    export(adapter, "comfyui", tmp_path / "comfy")
    files = sorted((tmp_path / "comfy").glob("*.safetensors"))
    assert len(files) == len(policy.transformers)
    layers = sum(isinstance(each, torch.nn.Linear) for each in policy.transformers["transformer"].modules())
    assert all(0 < len(read_layers(file)) < layers for file in files)

    if policy.boundary_ratio is not None:
        (adapter / "transformer_2" / LORA_FILE).unlink()
        with pytest.raises(FileNotFoundError, match="for expert transformer_2"):
            load_lora(adapter, fresh.transformers)
