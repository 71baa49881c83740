import math
import threading
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.optim.optimizer import register_optimizer_step_pre_hook

from buffers.records import Batch
from buffers.tensors import checksum, decode, encode
from configs.sections import LearnerConfig, TimestepsConfig
from learner.learner import Learner
from learner.mesh import Mesh
from learner.objectives.dpo import Dpo
from learner.timesteps import draw_window, keyed_generator
from policy.experts import IdleOnCpu
from policy.lora.adapters import adapter_state, policy_parameters

STEPS = 20


def config(**changes):
    timesteps = TimestepsConfig(**changes.pop("timesteps", {}))
    plain = {"beta": 50.0, "pairs_per_step": 4, "microbatch_pairs": 2, "gradient_checkpointing": False}
    return LearnerConfig(**plain | changes, timesteps=timesteps)


def make_learner(policy, settings, **changes):
    return Learner(policy, settings, Dpo(settings.beta), sampling_steps=STEPS, seed=3, **changes)


def gradient_of(policy, settings, batch):
    """The gradient that AdamW is given, unclipped."""
    found = []

    def look(_optimizer, _args, _kwargs):
        parameters = [parameter for _, parameter in policy_parameters(policy.transformers)]
        found.extend(torch.zeros_like(p).flatten() if p.grad is None else p.grad.clone().flatten() for p in parameters)

    learner = make_learner(policy, settings.model_copy(update={"max_grad_norm": 1e9}))
    handle = register_optimizer_step_pre_hook(look)
    try:
        learner.step(batch)
    finally:
        handle.remove()
    return torch.cat(found)


def weights(policy):
    return torch.cat([parameter.detach().flatten() for _, parameter in policy_parameters(policy.transformers)])


def derived_gradient(policy, settings, batch, rows):
    """Loss and gradient from the equations alone: one video at a time, and no adapter where its weights are zeroed."""
    window = draw_window(
        settings.timesteps,
        scheduler=policy.scheduler,
        steps=STEPS,
        seed=3,
        step=batch.step,
        num_pairs=len(batch.pairs),
        boundary_ratio=policy.boundary_ratio,
    )
    parameters = [parameter for _, parameter in policy_parameters(policy.transformers)]

    def error(latents, noise, row, column, prompt, *, with_adapter):
        t, sigma = window.timesteps[row, column], window.sigmas[row, column]
        kept = [parameter.detach().clone() for parameter in parameters]
        model = policy.transformers[policy.expert_at(float(t))]
        if not with_adapter:
            for parameter in parameters:
                parameter.data.zero_()
        noisy = (1 - sigma) * latents + sigma * noise
        found = model(noisy[None], t[None], prompt[None], return_dict=False)[0][0]
        if not with_adapter:
            found = found.detach()
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.data.copy_(value)
        return ((found - (noise - latents)) ** 2).sum() / latents.numel()

    loss = torch.zeros(())
    for column, pair in enumerate(batch.pairs):
        chosen, rejected = decode(pair.chosen), decode(pair.rejected)
        noise = torch.randn(chosen.shape, generator=keyed_generator("noise", 3, batch.step, pair.id))
        prompt = decode(batch.conditionings[pair.condition_id].prompt_embeds)
        for row in rows:
            policy_gap, reference_gap = (
                error(chosen, noise, row, column, prompt, with_adapter=adapter)
                - error(rejected, noise, row, column, prompt, with_adapter=adapter)
                for adapter in (True, False)
            )
            loss = loss - logsigmoid(-settings.beta / 2 * (policy_gap - reference_gap)) / len(batch.pairs)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def test_an_untrained_adapter_costs_log_2_and_the_figures_have_their_names(make_policy, make_batch):
    figures = make_learner(make_policy(trained=False), config(publish_every=2)).step(make_batch())
    assert figures.pop("loss") == pytest.approx(math.log(2))
    assert figures.pop("grad_norm") > 0
    assert sum(level["pairs"] for level in figures.pop("levels")) == 4 * 5
    assert len(figures.pop("window")) == 5
    assert figures == {
        "step": 1,
        "experts": {"transformer": 5},
        "implicit_accuracy": 0,
        "margin": 0,
        "chosen_reward": 0,
        "rejected_reward": 0,
        "drift": 0,
    }


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_gradient_and_loss_are_those_of_the_equations(make_policy, make_batch, reduce):
    policy, settings = make_policy(), config(timesteps={"reduce": reduce})
    loss, wanted = derived_gradient(policy, settings, make_batch(), rows=range(5))
    if reduce == "mean":
        wanted = wanted / 5
    torch.testing.assert_close(gradient_of(policy, settings, make_batch()), wanted, rtol=1e-4, atol=1e-5)
    figures = make_learner(make_policy(), settings).step(make_batch())
    assert figures["loss"] == pytest.approx(float(loss) / 5, rel=1e-5)
    assert figures["grad_norm"] == pytest.approx(float(wanted.norm()), rel=1e-4)
    assert figures["drift"] > 0
    assert figures["margin"] == pytest.approx(figures["chosen_reward"] - figures["rejected_reward"], abs=1e-4)


def test_pairs_of_several_sizes_share_a_step(make_policy, make_batch):
    """In microbatches of two, which hold one size each; the equations take one video at a time."""
    policy, settings, batch = make_policy(), config(), make_batch()
    smaller = {"chosen": lambda latents: latents[:, :, :2], "rejected": lambda latents: latents[:, :, :2]}
    mixed = [
        replace(pair, **{side: encode(cut(decode(getattr(pair, side)))) for side, cut in smaller.items()})
        if number in (0, 3)
        else pair
        for number, pair in enumerate(batch.pairs)
    ]
    batch = replace(batch, pairs=tuple(mixed))
    assert len({pair.chosen.shape for pair in batch.pairs}) == 2
    _, wanted = derived_gradient(policy, settings, batch, rows=range(5))
    torch.testing.assert_close(gradient_of(policy, settings, batch), wanted, rtol=1e-4, atol=1e-5)


def test_the_windows_gradient_is_the_sum_of_its_timesteps(make_policy, make_batch):
    policy, settings, batch = make_policy(), config(), make_batch()
    parts = [derived_gradient(policy, settings, batch, rows=[row])[1] for row in range(5)]
    assert all(float(part.norm()) > 0 for part in parts)
    torch.testing.assert_close(gradient_of(policy, settings, batch), sum(parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["apo", "uniform"])
def test_figures_are_told_apart_by_noise_level_and_norms_by_timestep(make_policy, make_batch, kind):
    settings, batch = config(timesteps={"kind": kind}), make_batch()
    figures = make_learner(make_policy(), settings).step(batch)
    drawn = draw_window(
        settings.timesteps, scheduler=make_policy().scheduler, steps=STEPS, seed=3, step=0, num_pairs=4
    ).timesteps
    expected = Counter(min(9, int(t // 100)) for t in drawn.flatten().tolist())
    assert {level["level"]: level["pairs"] for level in figures["levels"]} == expected
    for name in ("loss", "implicit_accuracy", "margin", "chosen_reward", "rejected_reward", "drift"):
        whole = sum(level[name] * level["pairs"] for level in figures["levels"]) / drawn.numel()
        assert whole == pytest.approx(figures[name], rel=1e-4, abs=1e-5), name
    for row, timestep in enumerate(figures["window"]):
        assert (timestep["timestep"], timestep["expert"]) == (pytest.approx(float(drawn[row].mean())), "transformer")
        assert timestep["level"] == (min(9, int(drawn[row].mean() // 100)) if kind == "apo" else None)
        alone = derived_gradient(make_policy(), settings, batch, rows=[row])[1]
        assert timestep["grad_norm"] == pytest.approx(float(alone.norm()), rel=1e-4)


def test_a_later_stage_starts_at_log_2_too(make_policy, make_batch):
    policy = make_policy()
    learner = make_learner(policy, config(learning_rate=0.05))
    assert learner.step(make_batch())["drift"] > 0
    learner.begin_stage(config(), Dpo(50.0), sampling_steps=STEPS)
    assert learner.state().optimizer == {}
    figures = learner.step(make_batch(step=1))
    assert (figures["loss"], figures["drift"], figures["step"]) == (pytest.approx(math.log(2)), 0, 2)
    assert learner.step(make_batch(step=2))["drift"] > 0


def test_swapping_chosen_and_rejected_flips_the_first_gradient(make_policy, make_batch):
    one, other = (gradient_of(make_policy(trained=False), config(), make_batch(swap=swap)) for swap in (False, True))
    assert float(one.norm()) > 1e-3
    torch.testing.assert_close(one, -other, rtol=1e-4, atol=1e-6)


def test_neither_checkpointing_nor_microbatches_change_the_gradient(make_policy, make_batch):
    plain = gradient_of(make_policy(), config(), make_batch())
    checkpointed = make_policy()
    torch.testing.assert_close(gradient_of(checkpointed, config(gradient_checkpointing=True), make_batch()), plain)
    assert checkpointed.transformers["transformer"].gradient_checkpointing
    for size in (1, 3, 9):
        torch.testing.assert_close(
            gradient_of(make_policy(), config(microbatch_pairs=size), make_batch()), plain, rtol=1e-4, atol=1e-5
        )


def test_rows_forwarded_are_2bk_with_a_graph_and_2bk_without(make_policy, make_batch):
    policy, rows = make_policy(), {True: [], False: []}

    def count(_module, _args, kwargs):
        rows[torch.is_grad_enabled()].append(len(kwargs["hidden_states"]))

    policy.transformers["transformer"].register_forward_pre_hook(count, with_kwargs=True)
    make_learner(policy, config(gradient_checkpointing=True)).step(make_batch())
    # Chosen and rejected apart, 2 pairs a microbatch, 2 microbatches, K = 5.
    assert rows == {True: [2] * 20, False: [2] * 20}


def test_a_step_leaves_flags_and_adapters_as_they_were(make_policy, make_batch):
    policy = make_policy()
    model = policy.transformers["transformer"]
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    base = {name: p.detach().clone() for name, p in model.named_parameters() if "lora" not in name}
    make_learner(policy, config()).step(make_batch())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert model.active_adapters() == ["policy"]
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters() if name in base)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_adamw_gets_the_clipped_gradient(make_policy, make_batch):
    policy, settings = make_policy(), config(max_grad_norm=0.01, learning_rate=0.1, weight_decay=0.3)
    gradient, before = gradient_of(make_policy(), settings, make_batch()), weights(policy)
    figures = make_learner(policy, settings).step(make_batch())
    assert figures["grad_norm"] > 1
    clipped = gradient * (0.01 / gradient.norm())
    wanted = before * (1 - 0.1 * 0.3) - 0.1 * clipped / (clipped.abs() + 1e-8)  # AdamW's first step, written out
    torch.testing.assert_close(weights(policy), wanted, rtol=1e-3, atol=1e-3)


def test_two_ranks_do_what_one_does(make_policy, make_batch):
    alone = make_policy()
    learner = make_learner(alone, config())
    wanted = [learner.step(make_batch(step=step)) for step in range(3)]
    shared = [torch.empty(0)] * 2
    barrier, found, policies = threading.Barrier(2), ([], []), (make_policy(), make_policy())

    def run(rank: int) -> None:
        def reduce(flat):
            shared[rank] = flat.clone()
            barrier.wait(60)
            flat.copy_(shared[0] + shared[1])
            barrier.wait(60)

        worker = make_learner(policies[rank], config(), mesh=Mesh(rank, 2, reduce))
        for step in range(3):
            whole, mine = make_batch(step=step), slice(2 * rank, 2 * rank + 2)
            found[rank].append(worker.step(Batch(step, whole.pairs[mine], whole.conditionings, whole.staleness[mine])))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert torch.equal(weights(policies[0]), weights(policies[1]))
    assert torch.equal(weights(policies[0]), weights(alone))  # the same sums in the same order
    for mine, whole in zip(found[1], wanted, strict=True):
        for name in ("loss", "implicit_accuracy", "margin", "drift", "grad_norm"):
            assert mine[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-5), name


def test_each_expert_is_stepped_only_by_windows_that_visit_it(make_policy, make_batch):
    # high_from = 0.8 is the boundary too: rows 0 to 3 are the first expert's, the low row is the second's
    policy = make_policy(boundary_ratio=0.8)
    _, wanted = derived_gradient(policy, config(), make_batch(), rows=range(5))
    torch.testing.assert_close(gradient_of(policy, config(), make_batch()), wanted, rtol=1e-4, atol=1e-5)

    policy, settings = make_policy(boundary_ratio=0.8), config(timesteps={"kind": "uniform"})
    learner = make_learner(policy, settings)
    moved = set()
    for step in range(12):
        before = adapter_state(policy.transformers)
        learner.step(make_batch(step=step))
        after = adapter_state(policy.transformers)
        changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        window = draw_window(
            settings.timesteps,
            scheduler=policy.scheduler,
            steps=STEPS,
            seed=3,
            step=step,
            num_pairs=4,
            boundary_ratio=0.8,
        )
        assert changed == set(window.experts)
        moved |= changed
    assert moved == {"transformer", "transformer_2"}


def test_learning_the_same_pairs_prefers_the_chosen_ones(make_policy, make_batch):
    learner = make_learner(make_policy(trained=False), config(learning_rate=0.01))
    batch = make_batch()
    figures = [learner.step(Batch(step, batch.pairs, batch.conditionings, batch.staleness)) for step in range(12)]
    assert figures[-1]["implicit_accuracy"] > 0.9
    assert figures[-1]["loss"] < 0.9 * math.log(2)
    assert figures[-1]["chosen_reward"] > figures[-1]["rejected_reward"]


def test_a_bf16_base_and_bf16_latents_train_float32_weights(make_policy, make_batch):
    policy = make_policy(dtype=torch.bfloat16)
    before = weights(policy)
    figures = make_learner(policy, config(gradient_checkpointing=True)).step(make_batch(dtype=torch.bfloat16))
    assert all(math.isfinite(value) for value in figures.values() if isinstance(value, float))
    assert weights(policy).dtype == torch.float32
    assert not torch.equal(weights(policy), before)


def test_a_snapshot_is_the_adapter_bit_for_bit_and_stays_so(make_policy, make_batch):
    policy = make_policy()
    learner = make_learner(policy, config(publish_every=2))
    for step in range(5):
        learner.step(make_batch(step=step))
    snapshot = learner.snapshot(2)
    assert (snapshot.version, snapshot.checksum) == (2, checksum(snapshot.adapter))
    state = adapter_state(policy.transformers)
    found = {name: decode(tensor) for name, tensor in snapshot.adapter.items()}
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    frozen = {name: tensor.data.copy() for name, tensor in snapshot.adapter.items()}
    learner.step(make_batch(step=5))
    assert all((snapshot.adapter[name].data == data).all() for name, data in frozen.items())


def test_a_step_brings_an_expert_to_the_device_at_most_once_and_the_numbers_stay(make_policy, make_batch):
    found = []
    for moves in (False, True):
        policy = make_policy(boundary_ratio=0.9)
        policy.idle = IdleOnCpu(policy.transformers, policy.device) if moves else None
        learner = make_learner(policy, config(timesteps={"high": 4, "low": 1}))
        steps = [learner.step(make_batch(step=step)) for step in range(4)]
        found.append(weights(policy))
        visits = [[timestep["expert"] for timestep in step["window"]] for step in steps]
        assert all(len(set(visited)) == 2 for visited in visits)
        assert [step.get("expert_switches") for step in steps] == ([2, 3, 4, 5] if moves else [None] * 4)
    assert torch.equal(*found)
