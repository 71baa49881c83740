"""Direct-Align against a float64 derivation, one video and branch at a time; decoder and reward are linear here."""

import copy
from dataclasses import replace

import pytest
import torch

from buffers.tensors import decode
from configs.sections import LearnerConfig, RewardConfig, TimestepsConfig
from configs.stages import DirectAlignStage
from learner.learner import Learner
from learner.levels import Levels
from learner.objectives.direct_align import DirectAlign, recovered
from learner.reward import WordsFile
from learner.timesteps import draw_window, keyed_generator
from policy.flow import interpolate, velocity_target
from policy.lora.adapters import policy_parameters
from tests.learner.conftest import gradients_of, make_policy

STEPS, SEED = 20, 3
LEVELS = TimestepsConfig(kind="levels")
PROMPT = "a video"
WORDS = {"positive": ["steady", "clean"], "negative": ["broken", "blurred"]}


class LinearReward:
    """A number a pixel for each text: `sum(frames * weight(text))`."""

    def __call__(self, frames, texts):
        return torch.stack(
            [(each * self.weight(text).to(each)).sum() for each, text in zip(frames, texts, strict=True)]
        )

    @staticmethod
    def weight(text: str):
        return 0.05 * torch.randn(2, 3, 4, 4, generator=keyed_generator(text), dtype=torch.float64)


def decoded(latents, first, count):
    """Two frames of the one latent frame, of its first three channels."""
    assert (first, count) == (1, 1)
    frame = latents[:, :3, first]
    return torch.stack([frame, 0.5 * frame + 0.1 * frame.roll(1, -1)], dim=2)


@pytest.fixture
def words(tmp_path):
    (tmp_path / "words.yaml").write_text(str(WORDS))
    return str(tmp_path / "words.yaml")


def objective(policy, words, hinge=50.0, **stage) -> DirectAlign:
    policy.decode_frames = decoded
    settings = RewardConfig(path="none", words=words, hinge=hinge, frames=2)
    given = DirectAlignStage.model_validate({"kind": "direct_align", **stage})
    held = WordsFile(words) if words else None
    return DirectAlign(given, settings, LinearReward(), held, Levels(LEVELS, policy.scheduler, STEPS))  # pyright: ignore


def own(batch):
    """The batch with videos that a generator made: their ids end with the seeds of their noise."""
    pairs = [
        replace(pair, source="unjudged", chosen_id=f"c-{10 + place}", rejected_id=f"c-{20 + place}")
        for place, pair in enumerate(batch.pairs)
    ]
    return replace(batch, pairs=tuple(pairs))


def learner_of(policy, objective, **settings) -> Learner:
    config = LearnerConfig(
        pairs_per_step=4,
        microbatch_pairs=2,
        gradient_checkpointing=False,
        timesteps=LEVELS,
        max_grad_norm=1e9,
        learning_rate=settings.pop("learning_rate", 1e-2),
    )
    return Learner(policy, config, objective, sampling_steps=STEPS, seed=SEED)


def test_x_0_is_recovered_exactly_if_the_model_predicts_the_velocity_at_every_level():
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 2, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    levels = Levels(TimestepsConfig(kind="levels", levels=[0.0, 1.0]), make_policy().scheduler, STEPS)
    for m in levels.allowed:
        for jump in (levels.denoising(m), levels.inversion(m)):
            noisy = interpolate(clean, noise, jump.a)
            found = recovered(noisy, velocity_target(clean, noise), noise, jump)
            torch.testing.assert_close(found, clean, rtol=0, atol=1e-11)
            # Its gradient to the velocity is (b - a) / (1 - b): negative in one branch, positive in the other.
            wrong = recovered(noisy, velocity_target(clean, noise) + 1.0, noise, jump) - clean
            expected = torch.full_like(clean, (jump.b - jump.a) / (1 - jump.b))
            torch.testing.assert_close(wrong, expected, rtol=0, atol=1e-10)


def derived(policy, batch, *, branches, hinge=50.0, pull=0.0, motion_pull=0.0, relative=True):
    """Loss and gradient of the step in float64, from the equations of SRPO."""
    model = copy.deepcopy(policy.transformers["transformer"]).double()
    parameters = [parameter for _, parameter in policy_parameters({"transformer": model})]
    window = draw_window(LEVELS, scheduler=policy.scheduler, steps=STEPS, seed=SEED, step=0, num_pairs=4)
    levels = Levels(LEVELS, policy.scheduler, STEPS)
    m = levels.nearest(float(window.sigmas[0, 0]))
    loss = torch.zeros((), dtype=torch.float64)
    for place, pair in enumerate(batch.pairs):
        prompt = decode(batch.conditionings[pair.condition_id].prompt_embeds).double()
        for video, seed in ((decode(pair.chosen), 10 + place), (decode(pair.rejected), 20 + place)):
            x0 = video.double()
            eps = torch.randn(video.shape, generator=torch.Generator().manual_seed(seed)).double()
            for inverted in branches:
                jump = levels.inversion(m) if inverted else levels.denoising(m)
                a, b = jump.a, jump.b
                x_a = a * eps + (1 - a) * x0
                says = lambda: model(x_a[None], torch.tensor([1000 * a]), prompt[None], return_dict=False)[0][0]  # noqa: B023, E731
                kept = [parameter.detach().clone() for parameter in parameters]
                for parameter in parameters:
                    parameter.data.zero_()
                reference = says().detach()
                for parameter, value in zip(parameters, kept, strict=True):
                    parameter.data.copy_(value)
                v = says()
                x_b, held_b = (x_a + (b - a) * each for each in (v, reference))
                frames, held = (decoded(((each - b * eps) / (1 - b))[None], 1, 1) for each in (x_b, held_b))
                rated = lambda text: (frames[0].transpose(0, 1) * LinearReward.weight(text)).sum()  # noqa: B023, E731
                if not relative:
                    reward = rated(PROMPT)
                elif inverted:
                    reward = (1 + 0.3 - 0.29 * jump.place) * rated(f"broken. {PROMPT}") - rated(f"steady. {PROMPT}")
                else:
                    reward = (1 + 0.1 + 0.15 * jump.place) * rated(f"steady. {PROMPT}") - rated(f"broken. {PROMPT}")
                motion = [(f[:, :, 1] - f[:, :, 0]).abs().mean() for f in (frames, held)]
                term = torch.relu(hinge - reward) + pull * (v - reference).square().mean()
                term = term + motion_pull * torch.relu(1 - motion[0] / motion[1])
                loss = loss + term / len(branches) / 2 / len(batch.pairs)
    gradients = torch.autograd.grad(loss, parameters)
    return float(loss.detach()), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("case", ["denoising", "both branches", "inversion", "held", "without words"])
def test_loss_and_gradient_are_those_of_the_equations(make_policy, make_batch, words, case):
    policy, batch = make_policy(), own(make_batch())
    branches = {"both branches": (False, True), "inversion": (True,)}.get(case, (False,))
    holds = {"pull": 2.0, "motion_pull": 3.0} if case == "held" else {}
    wanted_loss, wanted = derived(policy, batch, branches=branches, relative=case != "without words", **holds)
    on = {"denoising": False in branches, "inversion": True in branches}
    learner = learner_of(policy, objective(policy, None if case == "without words" else words, **on, **holds))
    found = gradients_of(learner)
    assert learner.step(batch)["loss"] == pytest.approx(wanted_loss, rel=1e-4)
    torch.testing.assert_close(torch.cat(found).double(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "stage", [{}, {"inversion": True}, {"denoising": False, "inversion": True}, {"recover": "one_step"}]
)
def test_the_reward_rises_in_every_branch(make_policy, make_batch, words, stage):
    """Of the same videos and level, so that nothing but the policy changes; measured without inversion."""

    def reward(policy) -> float:
        looks = learner_of(policy, objective(policy, words, recover=stage.get("recover", "known_noise")))
        return looks.step(own(make_batch()))["reward"]

    policy = make_policy(trained=False)
    before = reward(copy.deepcopy(policy))
    learner = learner_of(policy, objective(policy, words, **stage), learning_rate=3e-3)
    for _ in range(10):
        learner.steps = 0
        learner.step(own(make_batch()))
    assert reward(policy) > before + 0.01


def test_a_reward_above_the_hinge_teaches_nothing(make_policy, make_batch, words):
    policy = make_policy(trained=False)
    found = learner_of(policy, objective(policy, words, hinge=-50.0)).step(own(make_batch()))
    assert found["loss"] == 0.0 and found["grad_norm"] == 0.0


def test_words_go_round_with_the_steps_and_may_change_while_a_run_goes_on(
    make_policy, make_batch, words, tmp_path, caplog
):
    policy, asked = make_policy(), []
    align = objective(policy, words)
    rated = align.reward
    learner = learner_of(
        policy, replace(align, reward=lambda frames, texts: (asked.append(texts[0]), rated(frames, texts))[1])
    )
    for step in range(3):
        learner.step(own(make_batch(step=step)))
    assert [*dict.fromkeys(asked)] == [f"{word}. {PROMPT}" for word in ("steady", "broken", "clean", "blurred")]
    (tmp_path / "words.yaml").write_text("{positive: [calm], negative: [wild]}")
    asked.clear()
    learner.step(own(make_batch(step=3)))
    assert {*asked} == {f"calm. {PROMPT}", f"wild. {PROMPT}"}
    (tmp_path / "words.yaml").write_text("{positive: [calm")  # half of it has been written
    asked.clear()
    learner.step(own(make_batch(step=4)))
    assert {*asked} == {f"calm. {PROMPT}", f"wild. {PROMPT}"} and "the control words stay" in caplog.text


def test_peoples_videos_get_a_noise_of_their_own(make_policy, make_batch, words):
    policy = make_policy()
    batch = replace(make_batch(), pairs=tuple(replace(pair, source="offline") for pair in make_batch().pairs))
    loaded = objective(policy, words).load(batch, seed=SEED)
    expected = torch.randn(loaded[0].shape, generator=keyed_generator("noise", SEED, 0, batch.pairs[0].id))
    assert torch.equal(loaded[0].noises[0], expected) and torch.equal(loaded[0].noises[1], expected)
