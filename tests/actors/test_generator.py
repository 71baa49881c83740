# pyright: reportPrivateImportUsage=false
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image

from actors.generator import Generator
from buffers.clock import RoleClock
from buffers.records import Condition, Request, Snapshot
from buffers.tensors import checksum, decode, encode
from configs.schema import RunConfig
from configs.sections import LoraConfig
from media.pictures import write_png
from policy.bundle import check_bundle
from policy.lora.adapters import adapter_state, policy_parameters, save_lora
from policy.policy import VideoPolicy
from policy.sampler import draw_noise
from tests.policy.tiny_bundle import save_tiny_bundle

LORA = LoraConfig(rank=2, alpha=4, targets=["to_q", "to_v"])
CIRCLE = Condition("c1", "a red circle moving left", "general")
PERSON = Condition("c2", "a blue person walking right", "human")
REQUEST = Request((CIRCLE, PERSON), ((11, 12), (13, 14)))


def make_config(bundle: Path, *, dtype: str = "float32", guidance_scale: float = 3.0) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "test",
            "out": "unused",
            "model": {"path": str(bundle), "dtype": dtype, "max_text_tokens": 16},
            "prompts": {"train": "unused"},
            "ranker": {"path": "unused", "frames": 9},
            "evaluation": {"prompts": "held out"},
            "sampling": {
                "steps": 5,
                "guidance_scale": guidance_scale,
                "negative_prompt": "bad video" if guidance_scale > 1 else "",
                "num_frames": 9,
                "height": 32,
                "width": 32,
                "fps": 8.0,
            },
            "learner": {"lora": LORA.model_dump()},
        }
    )


@pytest.fixture
def generator(tiny_bundle: Path) -> Generator:
    return Generator(make_config(tiny_bundle))


def trained(bundle: Path, *, experts: int = 1) -> VideoPolicy:
    policy = VideoPolicy.load(bundle, dtype="float32", lora=LORA, seed=3, max_text_tokens=16)
    noise = torch.Generator().manual_seed(1)
    for _, parameter in policy_parameters(policy.transformers):
        parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=noise))
    assert len(policy.transformers) == experts
    return policy


def snapshot(policy: VideoPolicy, version: int, *, dtype: torch.dtype = torch.float32) -> Snapshot:
    adapter = {name: encode(tensor.to(dtype)) for name, tensor in adapter_state(policy.transformers).items()}
    return Snapshot(version, adapter, checksum(adapter))


def in_plain_diffusers(bundle: Path, adapter: Path, output_type: str) -> np.ndarray:
    pipe: Any = WanPipeline.from_pretrained(bundle, dtype=torch.float32)
    pipe.load_lora_weights(str(adapter))
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        [c.prompt for c in REQUEST.conditions for _ in range(2)],
        ["bad video"] * 4,
        height=32,
        width=32,
        num_frames=9,
        num_inference_steps=5,
        guidance_scale=3.0,
        latents=torch.stack([draw_noise(seed, (16, 3, 8, 8)) for seeds in REQUEST.seeds for seed in seeds]),
        output_type=output_type,
        max_sequence_length=16,
    ).frames
    return np.asarray(frames)


def test_videos_are_those_of_plain_diffusers_with_the_same_adapter(
    generator: Generator, tiny_bundle: Path, tmp_path: Path
):
    policy = trained(tiny_bundle)
    save_lora(tmp_path, policy.transformers, LORA)
    before, _, _ = generator.generate(REQUEST)
    generator.load_weights(snapshot(policy, 4))
    candidates, clips, _ = generator.generate(REQUEST)
    ours = torch.stack([decode(latents) for c in candidates for latents in (c.latents_a, c.latents_b)])
    assert (ours[0] - decode(before[0].latents_a)).abs().max() > 0.01  # the adapter matters
    latents = in_plain_diffusers(tiny_bundle, tmp_path, "latent")
    torch.testing.assert_close(ours, torch.from_numpy(latents), atol=1e-4, rtol=0)
    pixels = in_plain_diffusers(tiny_bundle, tmp_path, "np")
    videos = np.stack([video for clip in clips for video in (clip.video_a, clip.video_b)])
    assert np.abs(videos / 255 - pixels).max() < 0.5 / 255 + 1e-3


def test_videos_to_look_at_are_those_of_another_policy_and_change_nothing(generator: Generator, tiny_bundle: Path):
    config = make_config(tiny_bundle).sampling
    own, _, _ = generator.generate(REQUEST)
    shown = generator.show(REQUEST, config, snapshot(trained(tiny_bundle), 4))
    assert [each.policy_version for each in shown] == [4, 4] and generator.version == 0
    again, clips, _ = generator.generate(REQUEST)
    assert [decode(each.latents_a).equal(decode(was.latents_a)) for each, was in zip(again, own, strict=True)] == [
        True
    ] * 2
    generator.load_weights(snapshot(trained(tiny_bundle), 4))
    _, clips, _ = generator.generate(REQUEST)
    for each, clip in zip(shown, clips, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(each.videos, (clip.video_a, clip.video_b), strict=True))
    # Another sampling, and as many videos of a condition as it has seeds.
    three = Request((CIRCLE,), ((11, 12, 15),))
    [unguided] = generator.show(three, config.model_copy(update={"guidance_scale": 1.0}))
    assert len(unguided.videos) == 3 and unguided.seconds > 0
    assert not np.array_equal(unguided.videos[0], shown[0].videos[0])
    assert np.array_equal(generator.show(three, config)[0].videos[1], clips[0].video_b)


def test_records_are_whole_and_stamped_with_the_version(generator: Generator, tiny_bundle: Path):
    generator.load_weights(snapshot(trained(tiny_bundle), 7))
    candidates, clips, _ = generator.generate(REQUEST)
    assert [c.condition for c in candidates] == [c.condition for c in clips] == [CIRCLE, PERSON]
    assert {c.policy_version for c in [*candidates, *clips]} == {7}
    assert [c.seeds for c in candidates] == [(11, 12), (13, 14)]
    assert [c.conditioning.condition_id for c in candidates] == ["c1", "c2"]
    assert candidates[0].latents_b.shape == (16, 3, 8, 8)
    assert clips[1].video_b.shape == (9, 32, 32, 3) and clips[1].video_b.dtype == np.uint8
    assert clips[0].fps == 8.0
    embeds = VideoPolicy.load(tiny_bundle, dtype="float32", max_text_tokens=16).encode_prompts([PERSON.prompt])[0]
    torch.testing.assert_close(decode(candidates[1].conditioning.prompt_embeds), embeds, atol=1e-6, rtol=0)


def test_cached_prompts_change_nothing(generator: Generator, monkeypatch: pytest.MonkeyPatch):
    first, _, _ = generator.generate(REQUEST)
    asked: list[str] = []
    encode_prompts = generator._policy.encode_prompts
    monkeypatch.setattr(generator._policy, "encode_prompts", lambda p: asked.extend(p) or encode_prompts(p))
    again, _, _ = generator.generate(Request((PERSON, PERSON), ((13, 14), (11, 12))))
    assert asked == []
    torch.testing.assert_close(decode(again[0].latents_a), decode(first[1].latents_a), atol=1e-5, rtol=0)
    monkeypatch.setattr("policy.policy.CACHED_PROMPTS", 1)
    del generator._policy._cached_embeds
    third = Condition("c3", "the green square")
    for each in (PERSON, third, PERSON):
        generator.generate(Request((each,), ((1, 2),)))
    assert asked.count(third.prompt) == 1 and asked.count(PERSON.prompt) == 2  # pushed out, so asked for once more


def test_a_receipt_says_what_was_bound(tiny_bundle_two_experts: Path):
    generator = Generator(make_config(tiny_bundle_two_experts))
    assert generator.version == 0
    sent = snapshot(trained(tiny_bundle_two_experts, experts=2), 3)
    receipt = generator.load_weights(sent)
    # 2 blocks x 2 attentions x (to_q, to_v) x (A, B)
    assert receipt.parameters == 32
    assert (receipt.version, receipt.checksum, generator.version) == (3, sent.checksum, 3)


def test_a_bf16_snapshot_is_checked_in_bf16(generator: Generator, tiny_bundle: Path):
    sent = snapshot(trained(tiny_bundle), 1, dtype=torch.bfloat16)
    assert generator.load_weights(sent).checksum == sent.checksum


def test_a_damaged_snapshot_is_refused(generator: Generator, tiny_bundle: Path):
    sent = snapshot(trained(tiny_bundle), 2)
    name = next(iter(sent.adapter))
    tensor = sent.adapter[name]
    data = tensor.data.copy()
    data[5] ^= 1
    sent.adapter[name] = replace(tensor, data=data)
    held = adapter_state(generator._policy.transformers)
    with pytest.raises(ValueError, match="policy version 2 was damaged on the way"):
        generator.load_weights(sent)
    assert generator.version == 0
    now = adapter_state(generator._policy.transformers)
    assert all(torch.equal(now[key], held[key]) for key in held)


def test_a_snapshot_of_another_adapter_is_refused(generator: Generator, tiny_bundle: Path):
    other = VideoPolicy.load(tiny_bundle, dtype="float32", lora=LORA.model_copy(update={"rank": 3}))
    with pytest.raises(ValueError, match=r"does not fit: transformer.* has shape \[3, 24\], the model's has \[2, 24\]"):
        generator.load_weights(snapshot(other, 1))


def test_a_swap_that_binds_to_nothing_is_caught(
    generator: Generator, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    """What three other projects trained through for weeks: a load that says yes and writes nothing."""
    monkeypatch.setattr("actors.generator.load_adapter_state", lambda transformers, state: 16)
    with pytest.raises(ValueError, match=r"after loading policy version 5 the adapter's checksum is"):
        generator.load_weights(snapshot(trained(tiny_bundle), 5))
    assert generator.version == 0


def test_latents_are_kept_in_the_dtype_of_the_policy(tiny_bundle: Path):
    generator = Generator(make_config(tiny_bundle, dtype="bfloat16", guidance_scale=1.0))
    candidates, _, _ = generator.generate(Request((CIRCLE,), ((1, 2),)))
    assert candidates[0].latents_a.dtype == candidates[0].conditioning.prompt_embeds.dtype == "bfloat16"


def test_seeds_must_be_as_many_as_conditions(generator: Generator):
    with pytest.raises(ValueError):
        generator.generate(Request((CIRCLE, PERSON), ((1, 2),)))


def test_a_size_that_the_bundle_cannot_make_is_refused_at_once(tiny_bundle_two_experts: Path):
    config = make_config(tiny_bundle_two_experts)
    odd = config.sampling.model_copy(update={"height": 40})
    with pytest.raises(ValueError, match=r"sampling.height = 40: must be a multiple of 16"):
        Generator(config.model_copy(update={"sampling": odd}))


def test_busy_and_waiting_share_the_time(generator: Generator, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    generator._clock = RoleClock()
    decoded = generator._policy.decode

    def slow_decode(latents: torch.Tensor) -> np.ndarray:
        now[0] += 3.0
        return decoded(latents)

    monkeypatch.setattr(generator._policy, "decode", slow_decode)
    now[0] += 2.0
    generator.generate(REQUEST)
    now[0] += 4.0
    times = generator.times()
    assert (times.busy_s, times.waiting_s) == (3.0, 6.0)
    assert times.counts == {"requests": 1, "videos": 4, "weight_loads": 0}


def test_videos_begin_with_the_conditions_pictures_and_their_encoding_is_stored(tmp_path: Path):
    bundle = save_tiny_bundle(tmp_path / "bundle", framed=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    conditions = []
    for condition, picture in zip(REQUEST.conditions, pixels, strict=True):
        write_png(tmp_path / f"{condition.id}.png", picture)
        conditions.append(replace(condition, picture=str(tmp_path / f"{condition.id}.png")))
    generator = Generator(make_config(bundle))
    candidates, clips, _ = generator.generate(replace(REQUEST, conditions=tuple(conditions)))
    pipe: Any = WanImageToVideoPipeline.from_pretrained(bundle, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    shape = check_bundle(bundle).latent_shape(9, 32, 32)
    for held, picture, seed in zip(candidates, pixels, (11, 13), strict=True):
        assert held.conditioning.first_frame is not None and held.conditioning.frame_latents is not None
        assert np.array_equal(decode(held.conditioning.first_frame).numpy(), picture)
        assert held.conditioning.frame_latents.shape == (20, *shape[1:])
        theirs = pipe(
            image=Image.fromarray(picture),
            prompt=held.condition.prompt,
            negative_prompt="bad video",
            height=32,
            width=32,
            num_frames=9,
            num_inference_steps=5,
            guidance_scale=3.0,
            latents=draw_noise(seed, shape)[None],
            output_type="latent",
            max_sequence_length=16,
        ).frames[0]
        torch.testing.assert_close(decode(held.latents_a), theirs, atol=1e-4, rtol=0)
    assert [clip.condition.picture for clip in clips] == [condition.picture for condition in conditions]
    with pytest.raises(ValueError, match="has no first frame"):
        generator.generate(REQUEST)
