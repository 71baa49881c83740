"""A learner that is refused, poisoned or restarted."""

import threading
from dataclasses import replace

import pytest
import torch

from buffers.records import Batch
from buffers.tensors import encode
from configs.sections import LearnerConfig, TimestepsConfig
from learner.checkpoint import load_checkpoint, save_checkpoint
from learner.learner import Learner
from learner.mesh import Mesh
from policy.lora.adapters import adapter_state, policy_parameters


def make_learner(policy, *, sampling_steps=20, seed=3, mesh=None, **changes):
    plain = {"beta": 50.0, "pairs_per_step": 4, "microbatch_pairs": 2, "gradient_checkpointing": False}
    return Learner(
        policy,
        LearnerConfig(**plain | changes),
        sampling_steps=sampling_steps,
        seed=seed,
        mesh=mesh,
    )


def everything(learner):
    """Weights, both moments and step counts as one comparable value."""
    state = learner.state()
    tensors = [
        t for field in (state.adapters, state.exp_avg, state.exp_avg_sq) for e in field.values() for t in e.values()
    ]
    return state.steps, state.version, state.adam_steps, torch.cat([tensor.flatten() for tensor in tensors])


def same(one, other):
    return one[:3] == other[:3] and torch.equal(one[3], other[3])


@pytest.mark.parametrize("boundary_ratio", [None, 0.8])
def test_a_restored_learner_goes_on_bit_for_bit(make_policy, make_batch, tmp_path, boundary_ratio):
    settings = {"publish_every": 2, "timesteps": TimestepsConfig(kind="apo" if boundary_ratio is None else "uniform")}
    straight = make_learner(make_policy(boundary_ratio=boundary_ratio), **settings)
    for step in range(3):
        straight.step(make_batch(step=step))
    save_checkpoint(tmp_path / "step-3", straight.state())
    wanted = [straight.step(make_batch(step=step)) for step in range(3, 7)]

    resumed = make_learner(make_policy(boundary_ratio=boundary_ratio, trained=False), **settings)
    resumed.step(make_batch(step=0))  # whatever it held before is forgotten
    resumed.restore(load_checkpoint(tmp_path / "step-3"))
    assert (resumed.steps, resumed.version) == (3, 1)
    torch.manual_seed(123)
    found = [resumed.step(make_batch(step=step)) for step in range(3, 7)]
    for mine, theirs in zip(found, wanted, strict=True):
        assert {k: v for k, v in mine.items() if k != "step_s"} == {k: v for k, v in theirs.items() if k != "step_s"}
    assert same(everything(resumed), everything(straight))


def test_a_state_is_a_copy(make_policy, make_batch):
    learner = make_learner(make_policy())
    learner.step(make_batch(step=0))
    state = learner.state()
    kept = {name: tensor.clone() for name, tensor in state.exp_avg["transformer"].items()}
    learner.step(make_batch(step=1))
    assert state.steps == 1
    assert all(torch.equal(state.exp_avg["transformer"][name], tensor) for name, tensor in kept.items())


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


@pytest.mark.parametrize("poison", ["latent", "weights"])
def test_what_is_not_finite_names_step_pair_and_timesteps_and_leaves_the_policy_alone(make_policy, make_batch, poison):
    policy = make_policy()
    learner = make_learner(policy)
    learner.step(make_batch(step=0))
    before = everything(learner)
    if poison == "weights":
        with torch.no_grad():
            policy.transformers["transformer"].proj_out.bias[0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"(?s)step 1: .*pair1-2.*timesteps: \d+") as error:
        learner.step(make_batch(step=1, poison=2 if poison == "latent" else None))
    assert ("rejected latents" in str(error.value)) == (poison == "latent")
    assert same(everything(learner), before)
    assert all(parameter.grad is None for _, parameter in policy_parameters(policy.transformers))
    if poison == "latent":
        assert learner.step(make_batch(step=1))["step"] == 2


def test_a_gradient_that_is_not_finite_is_refused(make_policy, make_batch):
    policy = make_policy()

    def overflow(flat):
        flat[0] = float("inf")

    learner = make_learner(policy, mesh=Mesh(reduce=overflow))
    before = everything(learner)
    with pytest.raises(FloatingPointError, match="step 0: the gradient is not finite"):
        learner.step(make_batch())
    assert same(everything(learner), before)


def test_one_poisoned_rank_stops_both_and_moves_neither(make_policy, make_batch):
    shared, barrier, errors = [torch.empty(0)] * 2, threading.Barrier(2), ["", ""]
    policies = [make_policy(), make_policy()]
    before = [adapter_state(policy.transformers)["transformer"] for policy in policies]

    def run(rank):
        def reduce(flat):
            shared[rank] = flat.clone()
            barrier.wait(60)
            flat.copy_(shared[0] + shared[1])
            barrier.wait(60)

        whole, mine = make_batch(poison=3), slice(2 * rank, 2 * rank + 2)
        learner = make_learner(policies[rank], mesh=Mesh(rank, 2, reduce))
        try:
            learner.step(Batch(0, whole.pairs[mine], whole.conditionings, whole.staleness[mine]))
        except FloatingPointError as error:
            errors[rank] = str(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert "another learner worker" in errors[0]
    assert "pair0-3" in errors[1]
    for policy, weights in zip(policies, before, strict=True):
        after = adapter_state(policy.transformers)["transformer"]
        assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


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
        make_learner(make_policy(), mesh=Mesh(size=3, reduce=lambda flat: None))
    with pytest.raises(ValueError, match="reduce"):
        make_learner(make_policy(), mesh=Mesh(size=2))
    with pytest.raises(ValueError, match="no LoRA adapter"):
        make_learner(make_policy(lora=False, trained=False))
    with pytest.raises(ValueError, match=r"sampling\.steps = 6 with shift 3"):
        make_learner(make_policy(), sampling_steps=6)
