"""Half-online and offline pairs of drawn miniature videos, through the real roles and the real learner, without Ray."""

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.encoder import Encoder
from actors.generator import Generator
from actors.streams import AnchorStream
from buffers.people.rows import ConditionFiles, VideoFiles
from buffers.records import Anchor, Batch, Condition, EncodedCondition, Pair, Slot, TensorData, condition_id
from buffers.replay import ReplayBuffer
from buffers.store.pair_store import PairStore
from cluster.checks.bundle import encoded_by
from configs.load import load_config
from configs.schema import RunConfig
from configs.sections import BufferConfig, MixConfig
from examples.miniature.world import FPS, Scene, draw_any, render
from learner.learner import Learner
from learner.objectives.dpo import Dpo
from media.video_write import write_mp4
from policy.policy import VideoPolicy

COUNT, STEPS = 4, 10


@pytest.fixture(scope="module")
def config() -> RunConfig:
    changed = ["sampling.steps=5", f"learner.pairs_per_step={COUNT}", "learner.microbatch_pairs=4"]
    changed += ["learner.beta=500", "learner.learning_rate=1e-3", "learner.gradient_checkpointing=false"]
    changed += ["learner.timesteps.high=1", "learner.timesteps.low=1"]
    return load_config(Path("configs/miniature.yaml"), changed)


@pytest.fixture(scope="module")
def people(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four pairs, a clean video over a distorted one, and each of these as an anchor of its condition."""
    rng = np.random.default_rng(1)
    scenes = [(draw_any(rng), draw_any(rng, True)) for _ in range(COUNT)]
    conditions = [Condition(condition_id(good.prompt, good.domain), good.prompt, good.domain) for good, _ in scenes]
    return people_store(tmp_path_factory.mktemp("people"), config, conditions, scenes)


def people_store(
    folder: Path, config: RunConfig, conditions: Sequence[Condition], scenes: Sequence[tuple[Scene, Scene]]
) -> Path:
    """A store of a good and a bad video of each condition, as a pair and as two anchors."""
    encoder = Encoder(config.model, config.sampling, device="cpu")
    pairs, anchors, conditionings = [], [], []
    for number, (condition, (good, bad)) in enumerate(zip(conditions, scenes, strict=True)):
        files = [folder / f"{number}{name}.mp4" for name in ("good", "bad")]
        for file, scene in zip(files, (good, bad), strict=True):
            write_mp4(file, render(scene), fps=FPS)
        picture = Path(condition.picture) if condition.picture else None
        (conditioning,) = encoder.conditions(
            [ConditionFiles(condition.prompt, condition.domain, first_frame=picture, id=condition.id)]
        )
        chosen, rejected = encoder.videos([VideoFiles(file) for file in files])
        assert isinstance(chosen, TensorData) and isinstance(rejected, TensorData)
        assert isinstance(conditioning, EncodedCondition)
        names = f"good{number}", f"bad{number}"
        pairs.append(Pair(f"pair{number}", condition.id, *names, chosen, rejected, 0, "offline"))
        conditionings.append(conditioning)
        for name, latents in zip(names, (chosen, rejected), strict=True):
            anchors.append(Anchor(f"anchor-{name}", condition.id, name, name.startswith("good"), latents))
    encoder_parts = encoded_by(
        VideoPolicy.load(config.model.path, experts=False).facts, max_text_tokens=config.model.max_text_tokens
    )
    store = PairStore(folder / "store", encoded_by=encoder_parts)
    store.append(pairs, conditionings, anchors)
    store.close()
    return folder / "store"


def learner_of(config: RunConfig) -> Learner:
    policy = VideoPolicy.load(config.model.path, dtype="float32", lora=config.learner.lora)
    return Learner(policy, config.learner, Dpo(config.learner.beta), sampling_steps=config.sampling.steps, seed=0)


def train(learner: Learner, buffer: ReplayBuffer) -> tuple[list[float], list[Batch]]:
    """Losses and batches of so many steps."""

    async def steps() -> tuple[list[float], list[Batch]]:
        losses, batches = [], []
        for step in range(STEPS):
            batch = await asyncio.wait_for(buffer.take(step, COUNT), timeout=5)
            assert batch is not None
            losses.append(learner.step(batch)["loss"])
            batches.append(batch)
        await buffer.close()
        return losses, batches

    return asyncio.run(steps())


def test_peoples_own_pairs_train_the_policy(config: RunConfig, people: Path, tmp_path: Path):
    settings = BufferConfig(offline=str(people), mix=MixConfig(online=0.0, offline=1.0), max_uses=STEPS)
    losses, batches = train(learner_of(config), ReplayBuffer(settings, folder=tmp_path, seed=0))
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are the same as yet
    assert np.mean(losses[-3:]) < 0.95 * math.log(2)
    assert {pair.id for pair in batches[0].pairs} == {f"pair{number}" for number in range(COUNT)}
    assert {pair.source for batch in batches for pair in batch.pairs} == {"offline"}


def test_anchors_against_what_the_policy_makes_train_it(config: RunConfig, people: Path, tmp_path: Path):
    store, generator = PairStore(people, write=False), Generator(config)
    settings = BufferConfig(mix=MixConfig(online=0.0, half_online=1.0), max_uses=STEPS, anchors=str(people))
    stream = AnchorStream(store, positive_share=0.5, per_request=2, seed=0)
    buffer = ReplayBuffer(settings, folder=tmp_path, seed=0)
    assert asyncio.run(buffer.admit(2)) == Slot("half-online", 0)
    request = stream.at(Slot("half-online", 0))
    candidates, clips, _ = generator.generate(request)
    assert not clips, "nobody looks at them"
    assert asyncio.run(buffer.add(candidates, (), request)) == 4
    losses, batches = train(learner_of(config), buffer)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert np.mean(losses[-3:]) < 0.95 * math.log(2)
    first = batches[0].pairs
    assert {pair.source for pair in first} == {"half-online"}
    assert sum(pair.chosen_id.startswith("good") for pair in first) == 2
    assert sum(pair.rejected_id.startswith("bad") for pair in first) == 2
    store.close()
