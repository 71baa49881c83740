from typing import Any

import pytest

from cluster.checks.resources import check_resources, evaluation_needs, fits, needs
from configs.schema import RunConfig


def config(**sections) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "n",
            "out": "o",
            "model": {"path": "m"},
            "prompts": {"train": "t"},
            "ranker": {"path": "r", **sections.pop("ranker", {})},
            "evaluation": {"prompts": "e"},
            **sections,
        }
    )


def test_every_role_is_counted_train_workers_included():
    wanted = config(
        generator={"num_actors": 3, "cpus_per_actor": 2.0, "gpus_per_actor": 1.0},
        ranker={"num_actors": 2, "cpus_per_actor": 0.5},
        learner={"num_workers": 4, "cpus_per_worker": 1.0, "gpus_per_worker": 2.0},
    )
    assert {need.role: (need.count, need.cpus, need.gpus) for need in needs(wanted)} == {
        "generator": (3, 2.0, 1.0),
        "ranker": (2, 0.5, 0.0),
        "learner": (4, 1.0, 2.0),
    }


@pytest.mark.parametrize(
    ("evaluation", "inside", "between"),
    [
        ({"shown_videos": 2}, ["learner"], ["generator"]),
        ({"shown_videos": 0}, ["learner"], []),
        ({"every": 20, "meter": "m:f"}, ["generator", "learner"], ["generator"]),
    ],
)
def test_an_offline_stage_needs_no_ranker_and_generators_only_for_videos_to_show(
    evaluation: dict[str, Any], inside: list[str], between: list[str]
):
    offline = config(
        buffer={"offline": "people"}, stages=[{"kind": "offline"}], evaluation={"prompts": "e", **evaluation}
    )
    assert [need.role for need in needs(offline.of_stage(0))] == inside
    assert [need.role for need in evaluation_needs(offline)] == between


def test_a_learner_that_takes_the_generators_gpus_fits_as_they_do_not_run_together():
    node = [{"CPU": 64.0, "GPU": 8.0}]
    gpus = {"generator": {"num_actors": 8, "gpus_per_actor": 1.0}, "ranker": {"num_actors": 1}}
    offline = config(
        **gpus,
        buffer={"offline": "people"},
        stages=[{"kind": "offline", "learner": {"num_workers": 8, "gpus_per_worker": 1.0}}],
    )
    check_resources(needs(offline.of_stage(0)), node)
    check_resources(evaluation_needs(offline), node)
    assert not fits([*needs(offline.of_stage(0)), *evaluation_needs(offline)], node)


def test_what_fits_exactly_fits():
    check_resources(needs(config()), [{"CPU": 3.0}])
    check_resources(needs(config()), [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}])


def test_too_few_cpus_names_the_need_of_each_role_and_what_is_there():
    with pytest.raises(ValueError) as raised:
        check_resources(needs(config(learner={"num_workers": 8})), [{"CPU": 2.0}])
    text = str(raised.value)
    assert "it needs 10 CPU and 0 GPU" in text and "There are 2 CPU and 0 GPU" in text
    assert "8 x learner with 1 CPU (learner.num_workers)" in text
    assert "1 x generator with 1 CPU (generator.num_actors)" in text


def test_too_few_gpus():
    with pytest.raises(ValueError, match=r"it needs 3 CPU and 2 GPU.*There are 64 CPU and 1 GPU"):
        check_resources(needs(config(generator={"gpus_per_actor": 2.0})), [{"CPU": 64.0, "GPU": 1.0}])


def test_enough_in_all_but_not_on_one_node():
    nodes = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}]
    with pytest.raises(ValueError, match="no node has room left for a generator of 1 CPU and 8 GPU"):
        check_resources(needs(config(generator={"gpus_per_actor": 8.0})), nodes)
    with pytest.raises(ValueError, match="no node has room left for a ranker of 1 CPU and 2 GPU"):
        check_resources(
            needs(config(generator={"num_actors": 2, "gpus_per_actor": 3.0}, ranker={"gpus_per_actor": 2.0})), nodes
        )


def test_no_cpu_to_speak_of_is_not_a_rounding_matter():
    tenths = config(generator={"num_actors": 7, "cpus_per_actor": 0.1}, ranker={"cpus_per_actor": 0.2})
    check_resources(
        needs(tenths.model_copy(update={"learner": tenths.learner.model_copy(update={"cpus_per_worker": 0.1})})),
        [{"CPU": 1.0}],
    )
