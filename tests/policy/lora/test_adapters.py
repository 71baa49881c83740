import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from configs.sections import LoraConfig
from policy.conditioning import Conditioning
from policy.lora.adapters import (
    LORA_FILE,
    adapter_state,
    add_adapters,
    freeze_as_reference,
    load_adapter_state,
    load_lora,
    policy_parameters,
    reference_pass,
    save_lora,
)
from policy.policy import VideoPolicy

LORA = LoraConfig(rank=4, alpha=8, targets=["to_q", "to_out.0", "ffn.net.0.proj"])
Q = "blocks.0.attn1.to_q"


def load(bundle: Path, lora: LoraConfig | None = LORA, seed: int = 0) -> VideoPolicy:
    return VideoPolicy.load(bundle, dtype="float32", lora=lora, seed=seed, max_text_tokens=16)


@pytest.fixture
def policy(tiny_bundle: Path) -> VideoPolicy:
    return load(tiny_bundle)


@pytest.fixture
def policy_two(tiny_bundle_two_experts: Path) -> VideoPolicy:
    return load(tiny_bundle_two_experts)


def shake(policy: VideoPolicy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in policy_parameters(policy.transformers):
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def velocity(policy: VideoPolicy, expert: str = "transformer") -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, *policy.facts.latent_shape(9, 32, 32), generator=generator)
    embeds = torch.randn(1, 16, 32, generator=generator)
    return policy.velocity(latents, torch.tensor([900]), Conditioning(embeds), expert)


def flags(policy: VideoPolicy) -> dict[str, bool]:
    return {name: p.requires_grad for name, p in policy.transformers["transformer"].named_parameters()}


def test_a_new_adapter_changes_nothing(policy: VideoPolicy, tiny_bundle: Path):
    assert torch.equal(velocity(policy), velocity(load(tiny_bundle, lora=None)))


def test_the_adapter_is_the_low_rank_sum(policy: VideoPolicy):
    shake(policy, 1)
    layer = policy.transformers["transformer"].get_submodule(Q)
    state = adapter_state(policy.transformers)
    x = torch.randn(3, 24)
    delta = (
        state[f"transformer.{Q}.lora_B.weight"].double() @ state[f"transformer.{Q}.lora_A.weight"].double() * (8 / 4)
    )
    wanted = layer.base_layer(x).double() + x.double() @ delta.T  # type: ignore[operator]
    torch.testing.assert_close(layer(x).double(), wanted, atol=1e-5, rtol=0)


def test_first_weights_are_keyed_by_the_seed(tiny_bundle: Path):
    torch.manual_seed(1)
    first = adapter_state(load(tiny_bundle, seed=5).transformers)
    torch.manual_seed(2)
    again = adapter_state(load(tiny_bundle, seed=5).transformers)
    other = adapter_state(load(tiny_bundle, seed=6).transformers)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[f"transformer.{Q}.lora_A.weight"], other[f"transformer.{Q}.lora_A.weight"])


def test_every_targeted_layer_of_every_expert_has_masters(policy_two: VideoPolicy):
    names = [name for name, _ in policy_parameters(policy_two.transformers)]
    # 2 experts x 2 blocks x (to_q and to_out.0 of two attentions + one feed-forward) x (A, B)
    assert len(names) == len(set(names)) == 2 * 2 * 5 * 2
    assert f"transformer_2.{Q}.lora_A.weight" in names
    assert {p.dtype for _, p in policy_parameters(policy_two.transformers)} == {torch.float32}


def test_a_target_that_matches_nothing_is_named(tiny_bundle: Path):
    with pytest.raises(ValueError, match=r"learner.lora.targets: 'to_qq' matches no linear layer of transformer.*to_q"):
        load(tiny_bundle, LoraConfig(rank=2, alpha=2, targets=["to_q", "to_qq"]))


def test_nothing_is_added_when_one_expert_does_not_fit(policy_two: VideoPolicy, tiny_bundle_two_experts: Path):
    bare = load(tiny_bundle_two_experts, lora=None).transformers
    del bare["transformer_2"].blocks[0].attn1, bare["transformer_2"].blocks[1].attn1
    with pytest.raises(ValueError, match=r"'attn1.to_q' matches no linear layer of transformer_2"):
        add_adapters(bare, LoraConfig(targets=["attn1.to_q"]), seed=0)
    assert not [name for name, _ in bare["transformer"].named_parameters() if "lora" in name]


def test_the_reference_of_the_first_stage_is_the_base(policy: VideoPolicy, tiny_bundle: Path):
    shake(policy, 1)
    base, aligned = velocity(load(tiny_bundle, lora=None)), velocity(policy)
    with reference_pass(policy.transformers):
        reference = velocity(policy)
    assert torch.equal(reference, base)
    assert not reference.requires_grad
    assert (aligned - base).abs().max() > 1e-2
    assert torch.equal(velocity(policy), aligned)


def test_the_reference_of_a_later_stage_is_the_policy_as_it_was(policy_two: VideoPolicy):
    shake(policy_two, 1)
    was = {expert: velocity(policy_two, expert) for expert in policy_two.transformers}
    freeze_as_reference(policy_two.transformers)
    assert all(torch.equal(velocity(policy_two, expert), was[expert]) for expert in was)
    shake(policy_two, 2)
    with reference_pass(policy_two.transformers):
        for expert, before in was.items():
            assert torch.equal(velocity(policy_two, expert), before)
    assert all((velocity(policy_two, expert) - was[expert]).abs().max() > 1e-2 for expert in was)
    freeze_as_reference(policy_two.transformers)  # the next stage
    with reference_pass(policy_two.transformers):
        reference = velocity(policy_two)
    assert torch.equal(reference, velocity(policy_two))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_reference_pass_restores_flags_and_gradients_exactly(policy: VideoPolicy, frozen: bool):
    shake(policy, 1)
    if frozen:
        freeze_as_reference(policy.transformers)
    before = flags(policy)
    assert {name for name, on in before.items() if on} == {name for name in before if ".policy." in name}
    with pytest.raises(RuntimeError), reference_pass(policy.transformers):
        raise RuntimeError("in the middle")
    assert flags(policy) == before
    velocity(policy).square().mean().backward()
    alone = {name: p.grad.clone() for name, p in policy_parameters(policy.transformers) if p.grad is not None}
    assert len(alone) == len(policy_parameters(policy.transformers))
    for _, parameter in policy_parameters(policy.transformers):
        parameter.grad = None
    loss = velocity(policy).square().mean()
    with reference_pass(policy.transformers):
        velocity(policy)
    loss.backward()
    for name, parameter in policy_parameters(policy.transformers):
        assert parameter.grad is not None and torch.equal(parameter.grad, alone[name])


def test_state_is_a_copy_and_loads_in_place(policy: VideoPolicy, tiny_bundle: Path):
    shake(policy, 1)
    state, wanted = adapter_state(policy.transformers), velocity(policy)
    shake(policy, 2)
    assert (velocity(policy) - wanted).abs().max() > 1e-2
    held = [parameter.data_ptr() for _, parameter in policy_parameters(policy.transformers)]
    assert load_adapter_state(policy.transformers, state) == 20
    assert torch.equal(velocity(policy), wanted)
    assert [parameter.data_ptr() for _, parameter in policy_parameters(policy.transformers)] == held
    other = load(tiny_bundle, seed=9)
    load_adapter_state(other.transformers, state)
    assert torch.equal(velocity(other), wanted)


def test_a_state_that_does_not_fit_is_refused_whole(policy_two: VideoPolicy):
    good = adapter_state(policy_two.transformers)
    name = f"transformer_2.{Q}.lora_A.weight"
    missing, unexpected, misshapen = copy.deepcopy(good), copy.deepcopy(good), copy.deepcopy(good)
    del missing[name]
    unexpected["transformer_2.blocks.0.attn1.to_v.lora_A.weight"] = torch.zeros(4, 24)
    misshapen[name] = torch.zeros(2, 24)
    one_expert = {name: tensor for name, tensor in good.items() if name.startswith("transformer.")}
    shake(policy_two, 3)
    held = adapter_state(policy_two.transformers)
    for state, message in (
        (missing, rf"1 parameters are missing \(first: \['{name}'\]"),
        (unexpected, r"1 are unexpected \(first: \['transformer_2.blocks.0.attn1.to_v.lora_A.weight'\]"),
        (misshapen, rf"{name} has shape \[2, 24\], the model's has \[4, 24\].*learner.lora.rank"),
        (one_expert, r"20 parameters are missing \(first: \['transformer_2\.blocks"),
    ):
        with pytest.raises(ValueError, match=message):
            load_adapter_state(policy_two.transformers, state)
    now = adapter_state(policy_two.transformers)
    assert all(torch.equal(now[key], held[key]) for key in held)


def test_files_carry_alpha_and_load_back(policy_two: VideoPolicy, tiny_bundle_two_experts: Path, tmp_path: Path):
    shake(policy_two, 4)
    save_lora(tmp_path / "adapter", policy_two.transformers, LORA)
    with safe_open(tmp_path / "adapter" / "transformer_2" / LORA_FILE, framework="pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (metadata["transformer.r"], metadata["transformer.lora_alpha"]) == (4, 8)
    other = load(tiny_bundle_two_experts, seed=1)
    assert load_lora(tmp_path / "adapter", other.transformers) == 40
    for expert in other.transformers:
        assert torch.equal(velocity(other, expert), velocity(policy_two, expert))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LORA.model_copy(update={"rank": 2}), r"its rank is 4, the model's is 2: set learner.lora.rank=4"),
        (
            LORA.model_copy(update={"targets": ["to_q"]}),
            r"learner.lora.targets lacks; add attn1.to_out.0, attn2.to_out.0, ffn.net.0.proj there",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    policy: VideoPolicy, tiny_bundle: Path, tmp_path: Path, lora: LoraConfig, message: str
):
    save_lora(tmp_path, policy.transformers, LORA)
    with pytest.raises(ValueError, match=message):
        load_lora(tmp_path, load(tiny_bundle, lora).transformers)


@pytest.mark.parametrize("metadata", [True, False])
def test_a_run_of_another_rank_and_alpha_starts_from_the_same_velocity(
    policy: VideoPolicy, tiny_bundle: Path, tmp_path: Path, metadata: bool
):
    """Without metadata alpha is the rank: diffusers' own rule, seen here in a model made for it."""
    shake(policy, 1)
    save_lora(tmp_path, policy.transformers, LORA)
    wanted = velocity(policy)
    if not metadata:
        save_file(load_file(tmp_path / LORA_FILE), tmp_path / LORA_FILE)
        same = load(tiny_bundle, LORA.model_copy(update={"alpha": 4}))
        load_adapter_state(same.transformers, adapter_state(policy.transformers))
        wanted = velocity(same)
    larger = load(tiny_bundle, LORA.model_copy(update={"rank": 6, "alpha": 5, "targets": [*LORA.targets, "to_v"]}))
    load_lora(tmp_path, larger.transformers)
    torch.testing.assert_close(velocity(larger), wanted, atol=1e-5, rtol=0)
    assert (wanted - velocity(load(tiny_bundle, lora=None))).abs().max() > 1e-2


def test_an_adapter_of_two_experts_is_not_cut_to_one(policy_two: VideoPolicy, policy: VideoPolicy, tmp_path: Path):
    save_lora(tmp_path, policy_two.transformers, LORA)
    with pytest.raises(ValueError, match=r"transformer_2.*one for two experts, and the model has one"):
        load_lora(tmp_path, policy.transformers)


def test_a_missing_file_is_named(policy_two: VideoPolicy, tmp_path: Path):
    save_lora(tmp_path, policy_two.transformers, LORA)
    (tmp_path / "transformer_2" / LORA_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"transformer_2.*for expert transformer_2"):
        load_lora(tmp_path, policy_two.transformers)
