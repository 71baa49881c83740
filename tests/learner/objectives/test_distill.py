"""Eq. 3 and 4 against a float64 derivation, one video at a time; the teacher is the base without an adapter."""

import copy
from itertools import pairwise

import pytest
import torch

from buffers.tensors import decode
from configs.sections import LearnerConfig, SamplingConfig, TimestepsConfig
from learner.learner import Learner
from learner.objectives import distill as distill_file
from learner.objectives.distill import Distill
from learner.timesteps import draw_window, keyed_generator
from policy.conditioning import Conditioning
from policy.lora.adapters import policy_parameters
from tests.learner.conftest import gradients_of

STEPS, SEED = 20, 3
ON_THE_GRID = TimestepsConfig(random_shift=False, random_offset=False)
NEGATIVE = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(1))


def sampling(**changes) -> SamplingConfig:
    given = {"steps": STEPS, "guidance_scale": 3.0, "stg_scale": 0.5, "stg_blocks": [1], "stg_skip": "block"}
    return SamplingConfig.model_validate(given | changes)


def distill(scales=(3.0, 3.0), stg_scales=(0.5, 0.5), **changes) -> Distill:
    return Distill(sampling(**changes), {"transformer": scales}, stg_scales, Conditioning(NEGATIVE))


def learner_of(policy, objective) -> Learner:
    settings = LearnerConfig(
        pairs_per_step=4,
        microbatch_pairs=2,
        gradient_checkpointing=False,
        timesteps=ON_THE_GRID,
        learning_rate=1e-2,
        max_grad_norm=1e9,
    )
    return Learner(policy, settings, objective, sampling_steps=STEPS, seed=SEED)


def derived(policy, batch, *, guided_until: int):
    """The step's loss and its gradient, in float64. The first `guided_until` steps of the sampler are guided."""
    model = copy.deepcopy(policy.transformers["transformer"]).double()
    parameters = [parameter for _, parameter in policy_parameters({"transformer": model})]
    window = draw_window(ON_THE_GRID, scheduler=policy.scheduler, steps=STEPS, seed=SEED, step=0, num_pairs=4)
    scheduler = copy.deepcopy(policy.scheduler)
    scheduler.set_timesteps(STEPS)
    grid = scheduler.timesteps.tolist()

    def says(noisy, t, prompt, *, blocks=(0, 1)):
        every = model.blocks
        model.blocks = torch.nn.ModuleList([every[number] for number in blocks])
        try:
            return model(noisy[None], t[None].double(), prompt[None], return_dict=False)[0][0]
        finally:
            model.blocks = every

    def teacher(noisy, t, prompt):
        kept = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.data.zero_()
        with torch.no_grad():
            conditional = prediction = says(noisy, t, prompt)
            if grid.index(int(t)) < guided_until:
                null = says(noisy, t, NEGATIVE[0].double())
                w = 3.0 - 1.0
                prediction = (1 + w) * conditional - w * null
            prediction = prediction + 0.5 * (conditional - says(noisy, t, prompt, blocks=(0,)))
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data.copy_(value)
        return prediction

    loss = torch.zeros((), dtype=torch.float64)
    for column, pair in enumerate(batch.pairs):
        noise = torch.randn(pair.chosen.shape, generator=keyed_generator("noise", SEED, 0, pair.id)).double()
        prompt = decode(batch.conditionings[pair.condition_id].prompt_embeds).double()
        for t, sigma in zip(window.timesteps[:, column], window.sigmas[:, column].double(), strict=True):
            for video in (decode(pair.chosen).double(), decode(pair.rejected).double()):
                noisy = (1 - sigma) * video + sigma * noise
                apart = says(noisy, t, prompt) - teacher(noisy, t, prompt)
                loss = loss + apart.square().mean() / 2 / len(batch.pairs)
    gradients = torch.autograd.grad(loss, parameters)
    return float(loss.detach()) / len(window.timesteps), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize(("guidance_to", "guided_until"), [(1.0, 20), (0.2, 4)])
def test_loss_and_gradient_are_those_of_the_equations(make_policy, make_batch, guidance_to, guided_until):
    policy, batch = make_policy(), make_batch()
    wanted_loss, wanted = derived(policy, batch, guided_until=guided_until)
    learner = learner_of(policy, distill(guidance_to=guidance_to))
    found = gradients_of(learner)
    assert learner.step(batch)["loss"] == pytest.approx(wanted_loss, rel=1e-4)
    torch.testing.assert_close(torch.cat(found).double(), wanted, rtol=1e-3, atol=1e-5)


def test_the_student_comes_nearer_to_its_teacher(make_policy, make_batch):
    learner = learner_of(make_policy(trained=False), distill())
    losses = [learner.step(make_batch(step=step))["loss"] for step in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_before_the_first_step_the_student_is_the_teacher_without_guidance(make_policy, make_batch):
    found = learner_of(make_policy(trained=False), distill()).step(make_batch())
    assert found["drift"] == pytest.approx(0.0, abs=1e-12) and found["loss"] > 1e-4


def test_scales_are_drawn_for_each_pair_and_step_from_their_ranges(make_policy, make_batch, monkeypatch):
    given: list[dict] = []
    guided = distill_file.guided_velocity
    monkeypatch.setattr(distill_file, "guided_velocity", lambda *a, **said: (given.append(said), guided(*a, **said))[1])

    def scales(objective, *steps):
        given.clear()
        for step in steps:
            learner = learner_of(make_policy(), objective)
            learner.steps = step
            learner.step(make_batch(step=step))
        return [tuple(float(value) for said in given for value in said[name]) for name in ("scale", "stg_scale")]

    ranges = distill(scales=(2.0, 6.0), stg_scales=(0.0, 1.0))
    first, second = scales(ranges, 0), scales(ranges, 1)
    assert all(2.0 <= scale <= 6.0 for scale in first[0] + second[0]) and len({*first[0], *second[0]}) == 8
    assert all(0.0 <= scale <= 1.0 for scale in first[1]) and scales(ranges, 1) == second
    assert set(scales(distill(), 0)[0]) == {3.0}


def test_a_teacher_of_a_later_stage_is_the_adapter_that_the_stage_began_with(make_policy, make_batch):
    policy = make_policy()
    learner = learner_of(policy, distill())
    learner.begin_stage(learner.config, learner.objective, sampling_steps=STEPS)
    teacher = learner.reference_snapshot(1)
    assert teacher.checksum == learner.snapshot(1).checksum
    losses = [learner.step(make_batch(step=step))["drift"] for step in range(3)]
    assert losses[0] == pytest.approx(0.0, abs=1e-12) and all(one < two for one, two in pairwise(losses))
    assert learner.reference_snapshot(1).checksum == teacher.checksum != learner.snapshot(1).checksum


def test_a_teacher_that_is_the_base_is_an_adapter_of_zeros(make_policy):
    learner = learner_of(make_policy(), distill())
    snapshot = learner.reference_snapshot(0)
    assert snapshot.adapter.keys() == learner.snapshot(0).adapter.keys()
    assert not any(decode(tensor).any() for tensor in snapshot.adapter.values())
