"""What each kind of stage learns from, and how its videos are sampled."""

from typing import Any

import pytest

from configs.schema import RunConfig
from tests.configs.test_contradictions import build

OF_PEOPLE = {"offline": "pairs", "anchors": "anchors"}
GUIDED = {"guidance_scale": 5.0, "negative_prompt": "blurry", "stg_scale": 1.0, "stg_blocks": [9]}
FIVE = ("online", "half_online", "offline", "distill", "distill_aware")


def curriculum(**of_kind: dict[str, Any]) -> RunConfig:
    stages = [{"kind": kind, **of_kind.get(kind, {})} for kind in FIVE]
    return build(stages=stages, buffer=OF_PEOPLE, sampling=GUIDED)


def test_each_kind_has_a_mix_of_its_own_and_works_with_what_it_needs() -> None:
    shares, works = [], []
    for stage in curriculum().by_stage():
        shares.append({name: share for name, share in stage.buffer.mix.model_dump().items() if share})
        works.append((stage.generates, stage.asks_ranker))
    assert shares == [{"online": 1}, {"half_online": 1}, {"offline": 1}, {"unjudged": 1}, {"offline": 1}]
    assert works == [(True, True), (True, False), (False, False), (True, False), (False, False)]


def test_a_mix_may_be_given_and_names_only_what_differs() -> None:
    mixed = curriculum(half_online={"buffer": {"mix": {"half_online": 0.75, "offline": 0.25}}}).of_stage(1)
    assert (mixed.buffer.mix.half_online, mixed.buffer.mix.offline, mixed.buffer.mix.online) == (0.75, 0.25, 0.0)
    of_people = curriculum(distill={"videos": "offline"}).of_stage(3)
    assert of_people.buffer.mix.offline == 1.0 and not of_people.generates


def test_from_distillation_on_videos_are_sampled_without_guidance() -> None:
    config = curriculum()
    scales = [(stage.sampling.guidance_scale, stage.sampling.stg_scale) for stage in config.by_stage()]
    assert scales == [(5.0, 1.0)] * 4 + [(1.0, 0.0)], "the teacher of the distillation is guided"
    after = [config.sampled_after(number).sampling.guidance_scale for number in range(-1, 5)]
    assert after == [5.0, 5.0, 5.0, 5.0, 1.0, 1.0]


def test_a_distillation_learns_at_the_samplers_own_timesteps() -> None:
    timesteps = [stage.learner.timesteps for stage in curriculum().by_stage()]
    assert [each.random_shift for each in timesteps] == [True, True, True, False, True]
    moved = curriculum(distill={"learner": {"timesteps": {"random_offset": True}}}).of_stage(3).learner.timesteps
    assert (moved.random_shift, moved.random_offset) == (False, True)


@pytest.mark.parametrize(("count", "names"), [(1, ["after"]), (3, ["stage-1-online", "stage-2-half_online", "after"])])
def test_every_stage_ends_with_an_evaluation_of_its_own_name(count: int, names: list[str]) -> None:
    stages = [{"kind": kind} for kind in FIVE[:count]]
    config = build(stages=stages, buffer=OF_PEOPLE if count == 3 else {})
    assert [config.phase_after(number) for number in range(count)] == names
