"""Every Wan family against diffusers' own pipelines: what is sampled, and what the transformer is fed."""

# pyright: reportPrivateImportUsage=false

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image

from configs.sections import LoraConfig, SamplingConfig
from policy.bundle import check_bundle
from policy.conditioning import Conditioning, Described
from policy.flow import inference_grid, interpolate
from policy.policy import VideoPolicy
from policy.sampler import draw_noise, sample_latents
from tests.policy.tiny_bundle import FAMILIES, save_tiny_bundle

PROMPTS, NEGATIVE, STEPS, FRAMES, SIZE = ["a red circle", "the blue person walking left"], "bad blurry video", 4, 9, 32
PICTURES = [np.random.default_rng(n).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for n in range(2)]
CASES = [
    *((family, "Wan2.2-TI2V-5B" not in family and "I2V" in family) for family in FAMILIES),
    ("Wan2.2-TI2V-5B", True),
]
"""Family, and whether a picture is given."""


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, bool]:
    family, framed = request.param
    return save_tiny_bundle(tmp_path_factory.mktemp("bundle") / "b", **FAMILIES[family]), family, framed


def loaded(folder: Path, **options: Any) -> VideoPolicy:
    tokens = 512 if check_bundle(folder).image_dim else 16
    return VideoPolicy.load(folder, dtype="float32", max_text_tokens=tokens, **options)


def conditions(framed: bool) -> list[Described]:
    return [Described(text, picture if framed else None) for text, picture in zip(PROMPTS, PICTURES, strict=True)]


def noises(policy: VideoPolicy) -> torch.Tensor:
    return torch.stack([draw_noise(seed, policy.facts.latent_shape(FRAMES, SIZE, SIZE)) for seed in (3, 4)])


def by_diffusers(folder: Path, policy: VideoPolicy, framed: bool, scale: float, *, watch: Any = None) -> torch.Tensor:
    """One video after the other, as a user of diffusers makes them."""
    made = []
    for prompt, picture, noise in zip(PROMPTS, PICTURES, noises(policy), strict=True):
        kind: Any = WanImageToVideoPipeline if framed else WanPipeline
        pipe = kind.from_pretrained(folder, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        if watch is not None:
            pipe.transformer.register_forward_pre_hook(watch, with_kwargs=True)
        two = {"guidance_scale_2": 2.0} if policy.boundary_ratio is not None else {}
        made.append(
            pipe(
                **({"image": Image.fromarray(picture)} if framed else {}),
                prompt=prompt,
                negative_prompt=NEGATIVE,
                height=SIZE,
                width=SIZE,
                num_frames=FRAMES,
                num_inference_steps=STEPS,
                guidance_scale=scale,
                latents=noise[None],
                output_type="latent",
                max_sequence_length=policy.max_text_tokens,
                **two,
            ).frames
        )
    return torch.cat(made)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_latents_equal_those_of_the_pipeline(case: tuple[Path, str, bool], scale: float) -> None:
    folder, _, framed = case
    policy = loaded(folder)
    ours = sample_latents(
        policy,
        noise=noises(policy),
        conditioning=policy.prepare(conditions(framed), num_frames=FRAMES),
        negative=Conditioning(policy.encode_prompts([NEGATIVE])),
        sampling=SamplingConfig(
            steps=STEPS, guidance_scale=scale, guidance_scale_2=2.0 if policy.boundary_ratio is not None else None
        ),
    )
    wanted = by_diffusers(folder, policy, framed, scale)
    assert wanted.std() > 0.1
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)


def test_the_learners_input_at_an_inference_timestep_is_the_pipelines(case: tuple[Path, str, bool]) -> None:
    """The noise at the first step is all that the pipeline has there; the learner noises a video to that sigma."""
    folder, _, framed = case
    policy, fed = loaded(folder), []
    by_diffusers(folder, policy, framed, 1.0, watch=lambda module, args, kwargs: fed.append(kwargs))
    grid = inference_grid(policy.scheduler, STEPS)
    own = []
    policy.transformers["transformer"].register_forward_pre_hook(
        lambda m, a, kwargs: own.append(kwargs), with_kwargs=True
    )
    conditioning = policy.prepare(conditions(framed), num_frames=FRAMES)
    noisy = interpolate(torch.zeros_like(noises(policy)), noises(policy), 1.0)
    with torch.no_grad():
        policy.velocity(noisy, grid.timesteps[:1].repeat(2), conditioning, "transformer")
    first = [each for each in fed if float(each["timestep"].max()) == float(grid.timesteps[0])]
    assert len(first) == 2
    for name in ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"):
        if first[0].get(name) is None:
            assert own[0][name] is None
            continue
        theirs = torch.cat([each[name] for each in first])
        torch.testing.assert_close(own[0][name].float(), theirs.float(), atol=1e-5, rtol=0)


def test_a_picture_changes_the_video_and_the_wrong_number_of_them_is_refused(case: tuple[Path, str, bool]) -> None:
    folder, family, framed = case
    policy = loaded(folder)
    wanted = {"Wan2.2-TI2V-5B": "possible"}.get(family, "needed" if "I2V" in family else "not taken")
    assert policy.facts.first_frame == wanted
    if wanted == "possible":
        with pytest.raises(ValueError, match="1 of 2 conditions have a first frame"):
            policy.prepare([Described("a"), Described("b", PICTURES[0])], num_frames=FRAMES)
    else:
        has = "no" if framed else "a"
        with pytest.raises(ValueError, match=f"prompt 'a red circle' has {has} first frame; .* is {wanted}"):
            policy.prepare(conditions(not framed), num_frames=FRAMES)
    if not framed:
        return
    swapped = [Described(text, picture) for text, picture in zip(PROMPTS, PICTURES[::-1], strict=True)]
    one, two = (
        sample_latents(
            policy,
            noise=noises(policy),
            conditioning=policy.prepare(given, num_frames=FRAMES),
            negative=None,
            sampling=SamplingConfig(steps=STEPS, guidance_scale=1.0),
        )
        for given in (conditions(True), swapped)
    )
    assert (one - two).abs().max() > 1e-2


def test_in_ti2v_the_given_frame_has_no_noise_and_is_not_learned(tmp_path: Path) -> None:
    policy = loaded(save_tiny_bundle(tmp_path / "b", per_token=True), lora=LoraConfig(rank=2, alpha=2))
    given = policy.prepare(conditions(True), num_frames=FRAMES)
    latents = policy.with_first_frame(noises(policy), given)
    torch.testing.assert_close(latents[:, :, :1], policy.encode(np.stack(PICTURES)[:, None]), atol=1e-5, rtol=0)
    assert torch.equal(latents[:, :, 1:], noises(policy)[:, :, 1:])
    assert policy.learned(latents, given).shape[2] == latents.shape[2] - 1
    without = policy.prepare(conditions(False), num_frames=FRAMES)
    assert torch.equal(policy.with_first_frame(latents, without), latents)
    assert policy.learned(latents, without).shape == latents.shape
