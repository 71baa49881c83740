# pyright: reportPrivateImportUsage=false
"""Guidance against diffusers' own guiders, and against a float64 re-derivation of what a skipped block leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PerturbedAttentionGuidance, SkipLayerGuidance
from diffusers.hooks import LayerSkipConfig
from diffusers.hooks._helpers import (  # what diffusers registers for no current Wan processor
    AttentionProcessorMetadata,
    AttentionProcessorRegistry,
    _skip_attention___ret___hidden_states,
)
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from configs.sections import SamplingConfig
from policy.conditioning import Conditioning
from policy.guidance import guided_velocity, skipping
from policy.policy import VideoPolicy

TOKENS, T = 16, 600.0


@pytest.fixture(scope="module")
def policy(tiny_bundle: Path) -> VideoPolicy:
    return VideoPolicy.load(tiny_bundle, dtype="float32", max_text_tokens=TOKENS)


def inputs(policy: VideoPolicy, videos: int = 2) -> dict[str, Any]:
    shape = policy.facts.latent_shape(9, 32, 32)
    draw = torch.Generator().manual_seed(0)
    embeds = torch.randn(videos + 1, TOKENS, policy.facts.text_dim, generator=draw)
    return {
        "latents": torch.randn(videos, *shape, generator=draw),
        "timestep": torch.full((videos,), T),
        "conditioning": Conditioning(embeds[:videos]),
        "negative": Conditioning(embeds[videos:]),  # one row
        "expert": "transformer",
    }


def by_a_guider(guider: Any, policy: VideoPolicy, given: dict[str, Any]) -> torch.Tensor:
    """As diffusers' modular Wan pipeline drives a guider for one step, one pass after the other."""
    transformer = policy.transformers["transformer"]
    guider.set_state(step=2, num_inference_steps=10, timestep=torch.tensor(T))
    embeds = tuple(each.prompt_embeds.expand(2, -1, -1) for each in (given["conditioning"], given["negative"]))
    batches = guider.prepare_inputs({"embeds": embeds})
    for batch in batches:
        guider.prepare_models(transformer)
        with torch.no_grad():
            batch.noise_pred = transformer(
                hidden_states=given["latents"],
                timestep=given["timestep"],
                encoder_hidden_states=batch.embeds,
                return_dict=False,
            )[0]
        guider.cleanup_models(transformer)
    return guider(batches)[0]


def block_guider(stg_scale: float) -> Any:
    return SkipLayerGuidance(
        guidance_scale=3.0,
        skip_layer_guidance_scale=stg_scale,
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
        skip_layer_config=LayerSkipConfig(indices=[0]),
    )


def attention_guider(stg_scale: float) -> Any:
    AttentionProcessorRegistry.register(
        model_class=WanAttnProcessor,
        metadata=AttentionProcessorMetadata(skip_processor_output_fn=_skip_attention___ret___hidden_states),
    )
    return PerturbedAttentionGuidance(
        guidance_scale=3.0,
        perturbed_guidance_scale=stg_scale,
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
        perturbed_guidance_layers=[0],
    )


@pytest.mark.parametrize(("skip", "guider"), [("block", block_guider), ("attention", attention_guider)])
def test_guidance_is_what_diffusers_guiders_do(policy: VideoPolicy, skip: Any, guider: Callable[[float], Any]) -> None:
    given, sampling = inputs(policy), SamplingConfig(stg_scale=0.7, stg_blocks=[0], stg_skip=skip)
    wanted = by_a_guider(guider(0.7), policy, given)
    with torch.no_grad():
        ours, _ = guided_velocity(policy, **given, sampling=sampling, scale=3.0, stg_scale=0.7)
        plain, _ = guided_velocity(policy, **given, sampling=sampling, scale=3.0, stg_scale=0.0)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)
    assert (ours - plain).abs().max() > 1e-3, "a skip that changes nothing would equal anything"


@pytest.mark.parametrize("skip", ["block", "attention"])
def test_stg_alone_adds_what_the_skipped_blocks_do(policy: VideoPolicy, skip: Any) -> None:
    """Without classifier-free guidance diffusers' guiders skip nothing, so the few lines of Eq. 3 stand here."""
    given, sampling = inputs(policy), SamplingConfig(stg_scale=0.7, stg_blocks=[0], stg_skip=skip)
    asked = {name: value for name, value in given.items() if name != "negative"}
    with torch.no_grad():
        ours, _ = guided_velocity(policy, **given, sampling=sampling, scale=1.0, stg_scale=0.7)
        conditional = policy.velocity(**asked)
        with skipping(policy.transformers["transformer"], [0], skip):
            skipped = policy.velocity(**asked)
    torch.testing.assert_close(ours, conditional + 0.7 * (conditional - skipped), atol=1e-6, rtol=0)


def test_attention_to_itself_alone_is_the_value_projection(policy: VideoPolicy) -> None:
    attention: Any = policy.transformers["transformer"].blocks[0].attn1
    hidden = torch.randn(2, 5, attention.to_v.in_features)
    with torch.no_grad(), skipping(policy.transformers["transformer"], [0], "attention"):
        ours = attention(hidden, None, None, None)
    value, out = attention.to_v, attention.to_out[0]
    by_hand = hidden.double() @ value.weight.double().T + value.bias.double()
    by_hand = by_hand @ out.weight.double().T + out.bias.double()
    torch.testing.assert_close(ours.double(), by_hand, atol=1e-5, rtol=0)


@pytest.mark.parametrize("skip", ["block", "attention"])
def test_afterwards_the_transformer_is_as_it_was_also_after_an_error(policy: VideoPolicy, skip: Any) -> None:
    given = inputs(policy)
    del given["negative"]
    with torch.no_grad():
        before = policy.velocity(**given)
        with pytest.raises(RuntimeError, match="inside"), skipping(policy.transformers["transformer"], [0, 1], skip):
            assert not torch.equal(policy.velocity(**given), before)
            raise RuntimeError("inside")
        assert torch.equal(policy.velocity(**given), before)


def test_a_scale_for_each_video_is_that_scale_alone(policy: VideoPolicy) -> None:
    given, sampling = inputs(policy), SamplingConfig(stg_scale=0.5, stg_blocks=[1])
    scales, stg_scales = torch.tensor([1.0, 4.0]), torch.tensor([0.5, 0.0])
    with torch.no_grad():
        together, _ = guided_velocity(policy, **given, sampling=sampling, scale=scales, stg_scale=stg_scales)
        for row in range(2):
            one: dict[str, Any] = {"scale": float(scales[row]), "stg_scale": float(stg_scales[row])}
            one |= {name: given[name][row : row + 1] for name in ("latents", "timestep")}
            one["conditioning"] = Conditioning(given["conditioning"].prompt_embeds[row : row + 1])
            one["negative"] = given["negative"]
            alone, _ = guided_velocity(policy, **one, expert="transformer", sampling=sampling)
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_guidance_of_a_part_of_the_steps() -> None:
    """diffusers' guiders count `int(share * steps)`."""
    sampling = SamplingConfig(steps=10, guidance_from=0.3, guidance_to=0.55, stg_scale=1.0, stg_blocks=[0], stg_to=0.2)
    guider: Any = SkipLayerGuidance(skip_layer_config=LayerSkipConfig(indices=[0]), start=0.3, stop=0.55)
    enabled = []
    for step in range(10):
        guider.set_state(step=step, num_inference_steps=10, timestep=torch.tensor(0.0))
        enabled.append(guider._is_cfg_enabled())
    guided, skipped = sampling.guided_steps, sampling.skipping_steps
    assert [step in guided for step in range(10)] == enabled
    assert (list(guided), list(skipped)) == ([3, 4], [0, 1])
    plain = SamplingConfig(steps=10, guidance_scale=1.0)
    assert not plain.guided_steps and not plain.skipping_steps


def test_two_passes_and_one_of_twice_the_videos_are_the_same_guidance(policy: VideoPolicy):
    rows, predictions = [], []
    handle = policy.transformers["transformer"].register_forward_pre_hook(
        lambda _module, _args, given: rows.append(len(given["hidden_states"])), with_kwargs=True
    )
    for passes in ("joined", "separate"):
        sampling = SamplingConfig(guidance_passes=passes)
        with torch.no_grad():
            predictions.append(guided_velocity(policy, **inputs(policy), sampling=sampling, scale=3.0, stg_scale=0.0))
    handle.remove()
    assert rows == [4, 2, 2]
    for one, other in zip(*predictions, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
