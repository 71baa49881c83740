"""A learner that is refused, poisoned or restarted."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from buffers.records import Batch
from buffers.tensors import decode, encode
from configs.sections import LearnerConfig, TimestepsConfig
from learner.checkpoint import load_checkpoint, save_checkpoint
from learner.learner import Learner
from learner.mesh import Mesh
from learner.objectives.dpo import Dpo
from learner.samples import UnusablePairs
from policy.lora.adapters import adapter_state, policy_parameters


def make_learner(policy, *, sampling_steps=20, seed=3, rank=0, world_size=1, reduce=None, **changes):
    plain = {"beta": 50.0, "pairs_per_step": 4, "microbatch_pairs": 2, "gradient_checkpointing": False}
    mesh = Mesh(rank, world_size, **({"reduce": reduce} if reduce else {}))
    return Learner(
        policy, LearnerConfig(**plain | changes), Dpo(50.0), sampling_steps=sampling_steps, seed=seed, mesh=mesh
    )


def everything(learner):
    """Weights, both moments and step counts as one comparable value."""
    state = learner.state()
    tensors = [tensor for group in (state.adapter, state.reference, state.optimizer) for tensor in group.values()]
    return state.steps, [*state.optimizer], torch.cat([tensor.flatten() for tensor in tensors])


def same(one, other):
    return one[:2] == other[:2] and torch.equal(one[2], other[2])


@pytest.mark.parametrize("later_stage", [False, True])
@pytest.mark.parametrize("boundary_ratio", [None, 0.8])
def test_a_restored_learner_goes_on_bit_for_bit(make_policy, make_batch, tmp_path, boundary_ratio, later_stage):
    settings = {"publish_every": 2, "timesteps": TimestepsConfig(kind="apo" if boundary_ratio is None else "uniform")}
    straight = make_learner(make_policy(boundary_ratio=boundary_ratio), **settings)
    for step in range(3):
        straight.step(make_batch(step=step))
        if step == 1 and later_stage:
            straight.begin_stage(straight.config, Dpo(50.0), sampling_steps=20)
    save_checkpoint(tmp_path / "step-3", straight.state(run={"stage": 1}))
    wanted = [straight.step(make_batch(step=step)) for step in range(3, 7)]

    resumed = make_learner(make_policy(boundary_ratio=boundary_ratio, trained=False), **settings)
    resumed.step(make_batch(step=0))  # whatever it held before is forgotten
    state = load_checkpoint(tmp_path / "step-3")
    assert state.run == {"stage": 1}
    resumed.restore(state)
    assert resumed.steps == 3
    torch.manual_seed(123)
    found = [resumed.step(make_batch(step=step)) for step in range(3, 7)]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine == theirs
    assert same(everything(resumed), everything(straight))


def test_a_state_is_a_copy(make_policy, make_batch):
    learner = make_learner(make_policy())
    learner.step(make_batch(step=0))
    state = learner.state()
    kept = {name: tensor.clone() for name, tensor in state.optimizer.items()}
    learner.step(make_batch(step=1))
    assert state.steps == 1
    assert all(torch.equal(state.optimizer[name], tensor) for name, tensor in kept.items())


def test_another_runs_state_is_refused(make_policy, make_batch):
    learner = make_learner(make_policy())
    learner.step(make_batch())
    state = learner.state()
    with pytest.raises(ValueError, match="seed 3, this run has seed 4"):
        make_learner(make_policy(), seed=4).restore(state)
    two = make_learner(make_policy(boundary_ratio=0.8))
    before = everything(two)
    with pytest.raises(ValueError, match="transformer_2"):
        two.restore(state)
    assert same(everything(two), before)


def test_a_reference_that_is_an_adapter_is_not_taken_for_the_base(make_policy):
    state = make_learner(make_policy()).state()
    later = make_learner(make_policy())
    later.begin_stage(later.config, Dpo(50.0), sampling_steps=20)
    with pytest.raises(ValueError, match="reference is the base"):
        later.restore(state)


@pytest.mark.parametrize("poison", ["latent", "weights"])
def test_what_is_not_finite_names_step_pair_and_timesteps_and_leaves_the_policy_alone(make_policy, make_batch, poison):
    policy = make_policy()
    learner = make_learner(policy)
    learner.step(make_batch(step=0))
    before = everything(learner)
    if poison == "weights":
        with torch.no_grad():
            policy.transformers["transformer"].proj_out.bias[0] = float("inf")
    with pytest.raises(UnusablePairs, match=r"(?s)step 1: .*pair1-2.*timesteps: \d+") as error:
        learner.step(make_batch(step=1, poison=2 if poison == "latent" else None))
    if poison == "latent":
        assert error.value.ids == ("pair1-2",)
    assert ("rejected latents" in str(error.value)) == (poison == "latent")
    assert same(everything(learner), before)
    assert all(parameter.grad is None for _, parameter in policy_parameters(policy.transformers))
    if poison == "latent":
        assert learner.step(make_batch(step=1))["step"] == 2


def test_a_gradient_that_is_not_finite_is_refused(make_policy, make_batch):
    policy = make_policy()
    learner = make_learner(policy, reduce=lambda flat: flat[0].fill_(float("inf")))
    before = everything(learner)
    with pytest.raises(FloatingPointError, match="step 0: the gradient is not finite"):
        learner.step(make_batch())
    assert same(everything(learner), before)


def two_ranks(policies, batches):
    """One step on each of two ranks that reduce together; the two errors, or the figures."""
    shared, barrier = [torch.empty(0)] * 2, threading.Barrier(2)
    found: list[Any] = [None, None]

    def run(rank):
        def reduce(flat):
            shared[rank] = flat.clone()
            barrier.wait(20)
            flat.copy_(shared[0] + shared[1])
            barrier.wait(20)

        try:
            found[rank] = make_learner(policies[rank], rank=rank, world_size=2, reduce=reduce).step(batches[rank])
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


def shares(whole):
    return [
        Batch(0, whole.pairs[at : at + 2], whole.conditionings, whole.staleness[at : at + 2]) for at in range(0, 4, 2)
    ]


@pytest.mark.parametrize("fault", ["poison", "wrong step", "no conditioning", "out of memory"])
def test_one_failing_rank_stops_both_and_moves_neither(make_policy, make_batch, fault):
    policies = [make_policy(), make_policy()]
    before = [adapter_state(policy.transformers) for policy in policies]
    batches = shares(make_batch(poison=3 if fault == "poison" else None))
    expected: type[Exception] = ValueError
    if fault == "poison":
        expected = UnusablePairs
    elif fault == "wrong step":
        batches[1] = replace(batches[1], step=7)
    elif fault == "no conditioning":
        batches[1] = replace(batches[1], conditionings={})
    else:
        expected = torch.OutOfMemoryError

        def refuse(*_):
            raise torch.OutOfMemoryError("no memory")

        policies[1].transformers["transformer"].register_forward_pre_hook(refuse)
    errors = two_ranks(policies, batches)
    assert "another learner worker" in str(errors[0])
    assert isinstance(errors[1], expected)
    if fault == "poison":
        assert isinstance(errors[0], UnusablePairs) and errors[0].ids == ()
        assert isinstance(errors[1], UnusablePairs) and errors[1].ids == ("pair0-3",)
    else:
        assert not isinstance(errors[0], UnusablePairs)
    for policy, weights in zip(policies, before, strict=True):
        after = adapter_state(policy.transformers)
        assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


def test_ranks_make_equally_many_microbatches_and_learn_what_one_rank_learns(make_policy, make_batch):
    """Rank 1 has videos of two sizes, so it needs two microbatches where rank 0 would need one."""
    policies, whole = [make_policy(), make_policy()], make_batch()
    small = {side: encode(decode(getattr(whole.pairs[2], side))[:, :, :2]) for side in ("chosen", "rejected")}
    pairs = (*whole.pairs[:2], replace(whole.pairs[2], **small), whole.pairs[3])
    shapes = tuple(pair.chosen.shape for pair in pairs)
    whole = replace(whole, pairs=pairs, shapes=shapes)
    calls = [0, 0]
    for rank, policy in enumerate(policies):

        def count(*_, rank=rank):
            calls[rank] += 1

        policy.transformers["transformer"].register_forward_pre_hook(count)
    found = two_ranks(policies, [replace(share, shapes=shapes) for share in shares(whole)])
    assert calls == [5 * 2 * 2 * 2] * 2  # timesteps, microbatches, sides, policy and reference
    assert found[0]["levels"] == found[1]["levels"] and found[0]["grad_norm"] == found[1]["grad_norm"]
    alone = make_policy()
    figures = make_learner(alone).step(whole)
    assert figures["loss"] == pytest.approx(found[0]["loss"], rel=1e-6)
    one, other, single = (adapter_state(policy.transformers) for policy in (*policies, alone))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name])
        torch.testing.assert_close(tensor, single[name], rtol=1e-4, atol=1e-6)


def test_a_batch_of_another_step_or_size_is_refused(make_policy, make_batch):
    learner = make_learner(make_policy())
    with pytest.raises(ValueError, match="the batch is of step 2, the learner is at step 0"):
        learner.step(make_batch(step=2))
    with pytest.raises(ValueError, match=r"3 pairs for rank 0 of 1; learner\.pairs_per_step = 4 makes it 4"):
        learner.step(make_batch(count=3))


def test_pairs_that_do_not_fit_together_are_named(make_policy, make_batch):
    small, big = make_batch(), make_batch(step=1)
    cut = torch.zeros(4, 1, 4, 4)
    odd = replace(small, pairs=(*small.pairs[:3], replace(small.pairs[3], rejected=encode(cut))))
    with pytest.raises(ValueError, match=r"pair pair0-3: .*\(4, 2, 4, 4\), rejected \(4, 1, 4, 4\)"):
        make_learner(make_policy()).step(odd)
    lost = replace(big, step=0, conditionings={})
    with pytest.raises(ValueError, match="pair pair1-0: the batch has no conditioning c0"):
        make_learner(make_policy()).step(lost)


def test_a_learner_that_cannot_work_says_so_at_once(make_policy):
    with pytest.raises(ValueError, match="pairs_per_step = 4 does not divide among 3"):
        make_learner(make_policy(), world_size=3, reduce=lambda flat: None)
    with pytest.raises(ValueError, match="reduce"):
        make_learner(make_policy(), world_size=2)
    with pytest.raises(ValueError, match="no LoRA adapter"):
        make_learner(make_policy(lora=False, trained=False))
    with pytest.raises(ValueError, match=r"sampling\.steps = 6 with shift 3"):
        make_learner(make_policy(), sampling_steps=6)
