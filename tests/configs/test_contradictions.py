from typing import Any

import pytest
from pydantic import ValidationError

from configs.schema import RunConfig


def build(**sections: Any) -> RunConfig:
    """A config that is right, with the given keys put in."""
    tree: dict[str, Any] = {
        "name": "t",
        "out": "runs/t",
        "model": {"path": "bundle"},
        "prompts": {"train": "train.txt"},
        "ranker": {"path": "judge"},
        "evaluation": {"prompts": "held_out.txt"},
    }
    for name, value in sections.items():
        tree[name] = {**tree[name], **value} if isinstance(tree.get(name), dict) else value
    return RunConfig.model_validate(tree)


def test_the_defaults_do_not_contradict_each_other() -> None:
    assert build().sampling.num_frames == 121


STAGES = [{"kind": "online"}, {"kind": "online"}]
CASES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"learner": {"timesteps": {"high": 0, "low": 0}}}, ("learner.timesteps.high = 0", "learner.timesteps.low = 0")),
    (
        {"sampling": {"negative_prompt": "blurry", "guidance_scale": 1.0}},
        ("sampling.negative_prompt", "sampling.guidance_scale"),
    ),
    (
        {"learner": {"pairs_per_step": 10, "num_workers": 4}},
        ("learner.pairs_per_step = 10", "learner.num_workers = 4", "8"),
    ),
    (
        {"learner": {"pairs_per_step": 8, "num_workers": 2, "microbatch_pairs": 5}},
        ("learner.microbatch_pairs = 5", "learner.num_workers = 2", "learner.pairs_per_step = 8", "at most 4"),
    ),
    (
        {
            "learner": {"publish_every": 11, "checkpoint_every": 55},
            "stages": [{"kind": "online", "steps": 20}, {"kind": "online", "steps": 10}],
        },
        ("learner.publish_every = 11", "stages.1.steps = 10"),
    ),
    (
        {"sampling": {"steps": 4}},
        ("sampling.steps = 4", "learner.timesteps.high = 4", "learner.timesteps.low = 1", "5"),
    ),
    ({"learner": {"timesteps": {"shifts": []}}}, ("learner.timesteps.random_shift", "learner.timesteps.shifts")),
    (
        {"learner": {"timesteps": {"offset_variance": 0.0}}},
        ("learner.timesteps.random_offset", "learner.timesteps.offset_variance"),
    ),
    ({"buffer": {"capacity": 15}}, ("buffer.capacity = 15", "learner.pairs_per_step = 16")),
    ({"buffer": {"mix": {"online": 0.5}}}, ("buffer.mix", "sum to 0.5")),
    ({"buffer": {"mix": {"online": 0.5, "half_online": 0.5}}}, ("buffer.mix.half_online = 0.5", "buffer.anchors")),
    ({"buffer": {"mix": {"online": 0.5, "unjudged": 0.5}}}, ("buffer.mix.unjudged = 0.5", "distill and direct_align")),
    (
        {"buffer": {"mix": {"online": 0.5, "half_online": 0.5}, "anchors": "a", "when_full": "drop_oldest"}},
        ("buffer.when_full = drop_oldest", "use wait"),
    ),
    ({"buffer": {"anchors": "a"}}, ("buffer.anchors = a is never read", "half_online")),
    ({"sampling": {"guidance_from": 0.6, "guidance_to": 0.4}}, ("sampling.guidance_from = 0.6", "guidance_to = 0.4")),
    ({"sampling": {"guidance_from": 0.5, "guidance_to": 0.51}}, ("sampling.guidance_from", "none of the", "40 steps")),
    ({"sampling": {"stg_scale": 1.0}}, ("sampling.stg_scale = 1", "sampling.stg_blocks = []")),
    ({"sampling": {"stg_blocks": [3]}}, ("sampling.stg_scale = 0", "sampling.stg_blocks = [3]")),
    ({"stages": [{"kind": "half_online"}]}, ("buffer.mix.half_online = 1", "buffer.anchors")),
    ({"stages": [{"kind": "distill_aware"}], "start_from": "a"}, ("buffer.mix.offline = 1", "buffer.offline")),
    ({"stages": [{"kind": "distill_aware"}], "buffer": {"offline": "p"}}, ("distill stage before it", "start_from")),
    ({"stages": STAGES, "first_stage": 1}, ("first_stage = 1", "start_from", "stage 0 (online)")),
    ({"stages": STAGES, "first_stage": 1, "last_stage": 0}, ("first_stage = 1 and last_stage = 0", "0 to 1")),
    ({"stages": STAGES, "last_stage": 2}, ("last_stage = 2", "0 to 1")),
    (
        {"stages": [{"kind": "online"}, {"kind": "online", "sampling": {"height": 64}}]},
        ("stages.1.sampling.height = 64", "sampling.height = 720", "one size"),
    ),
    ({"learner": {"max_drift": [1.0, 0.5]}}, ("learner.max_drift = [1.0, 0.5]", "the larger one")),
    ({"evaluation": {"prompts": "e", "best": "distorted"}}, ("evaluation.best = distorted", "evaluation.every")),
    (
        {"evaluation": {"prompts": "e", "every": 20, "videos": 16, "shown_videos": 4}},
        ("evaluation.every_videos = 32", "evaluation.videos = 16"),
    ),
    ({"evaluation": {"prompts": "e", "every_videos": 7}}, ("evaluation.every_videos = 7", "even")),
    ({"stages": [{"kind": "direct_align"}]}, ("stages.0: direct_align learns from a reward", "section reward")),
    ({"reward": {"path": "clip"}}, ("reward.path = clip is never read",)),
    (
        {"stages": [{"kind": "direct_align", "denoising": False}], "reward": {"path": "clip"}},
        ("denoising and inversion are both false",),
    ),
    (
        {"stages": [{"kind": "direct_align", "inversion": True}], "reward": {"path": "clip"}},
        ("stages.0.inversion = true needs reward.words",),
    ),
    (
        {
            "stages": [{"kind": "direct_align", "inversion": True, "recover": "one_step"}],
            "reward": {"path": "clip", "words": "w"},
        },
        ("recover = one_step", "leave one of them out"),
    ),
    (
        {"stages": [{"kind": "direct_align"}], "reward": {"path": "clip", "latent_frames": 40}},
        ("reward.latent_frames = 40 is more than a video of sampling.num_frames = 121 has", "at most 31"),
    ),
    (
        {"stages": [{"kind": "direct_align", "learner": {"timesteps": {"kind": "apo"}}}], "reward": {"path": "clip"}},
        ("learner.timesteps.kind = apo: direct_align jumps between levels",),
    ),
    (
        {
            "stages": [{"kind": "direct_align", "buffer": {"mix": {"online": 0.5, "unjudged": 0.5}}}],
            "reward": {"path": "clip"},
        },
        ("stages.0: direct_align learns no preference",),
    ),
    (
        {"stages": [{"kind": "distill"}], "sampling": {"guidance_scale": 1.0}},
        ("stages.0: distill takes guidance into one pass", "sampling.guidance_scale = 1"),
    ),
    (
        {"stages": [{"kind": "distill", "guidance_scales": [5.0, 3.0]}]},
        ("stages.0.guidance_scales = [5.0, 3.0]", "the first is the smaller"),
    ),
    (
        {"stages": [{"kind": "distill", "stg_scales": [0.5, 1.0]}]},
        ("stages.0.stg_scales = [0.5, 1.0]", "sampling.stg_scale = 0"),
    ),
    (
        {"stages": [{"kind": "distill", "buffer": {"mix": {"online": 0.5, "unjudged": 0.5}}}]},
        ("stages.0: distill learns no preference",),
    ),
    (
        {"stages": [{"kind": "distill"}, {"kind": "online", "sampling": {"guidance_scale": 4.0}}]},
        ("stages.1.sampling", "stages.0 (distill)", "guided twice"),
    ),
    ({"buffer": {"mix": {"online": 0.5, "offline": 0.5}}}, ("buffer.mix.offline = 0.5", "buffer.offline")),
    ({"buffer": {"offline": "s3://people/store"}}, ("s3://people/store is never read", "buffer.mix.offline = 0")),
    ({"stages": [{"kind": "offline"}]}, ("buffer.mix.offline = 1", "buffer.offline")),
    (
        {"stages": [{"kind": "online"}, {"kind": "online", "learner": {"pairs_per_step": 9, "num_workers": 2}}]},
        ("stages.1.learner.pairs_per_step = 9", "stages.1.learner.num_workers = 2"),
    ),
    (
        {"stages": [{"kind": "online", "learner": {"beta": -1.0}}]},
        ("stages.0.learner.beta = -1.0", "greater than or equal to"),
    ),
    (
        {"stages": [{"kind": "online", "learner": {"betta": 1.0}}]},
        ("stages.0.learner.betta = 1.0", "stages.0.learner.beta?"),
    ),
    (
        {"stages": [{"kind": "online", "learner": {"rank": 8}}]},
        ("stages.0.learner.rank = 8", "did you mean stages.0.learner.lora.rank?"),
    ),
    (
        {"stages": [{"kind": "online"}, {"kind": "online", "buffer": {"capacity": 15}}]},
        ("stages.1.buffer.capacity = 15 is less than learner.pairs_per_step = 16",),
    ),
    (
        {"stages": [{"kind": "online"}, {"kind": "online", "learner": {"lora": {"rank": 8}}}]},
        ("stages.1.learner.lora differs", "one adapter goes through all stages"),
    ),
    ({"cluster": {"address": "auto"}}, ("out = runs/t is relative", "cluster.address = auto", "absolute path")),
    (
        {"buffer": {"offline": "people"}, "stages": [{"kind": "offline", "sampling": {"steps": 30}}]},
        ("stages.0", "generates nothing"),
    ),
    ({"sampling": {"num_frames": 33}}, ("ranker.frames = 40", "sampling.num_frames = 33")),
    ({"evaluation": {"videos": 255}}, ("evaluation.videos = 255", "254 or 256")),
    ({"evaluation": {"videos": 10}}, ("evaluation.shown_videos = 12", "evaluation.videos = 10")),
    ({"evaluation": {"prompts": "train.txt"}}, ("evaluation.prompts", "prompts.train", "train.txt")),
    (
        {"out": "/runs/t", "cluster": {"address": "auto", "num_cpus": 4}},
        ("cluster.num_cpus = 4", "cluster.address = auto"),
    ),
    (
        {"out": "/runs/t", "cluster": {"address": "auto", "dashboard": True}},
        ("cluster.dashboard", "cluster.address = auto"),
    ),
]


@pytest.mark.parametrize(("sections", "named"), CASES)
def test_a_contradiction_names_its_keys_and_what_would_be_right(
    sections: dict[str, Any], named: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        build(**sections)
    (problem,) = caught.value.errors()
    assert "\n" not in problem["msg"], "one contradiction is one line"
    for text in named:
        assert text in problem["msg"]


@pytest.mark.parametrize(
    "sections",
    [
        {"sampling": {"num_frames": 1}, "ranker": {"frames": 1}},
        {"sampling": {"steps": 5}},
        {"sampling": {"steps": 1}, "learner": {"timesteps": {"kind": "uniform"}}},
        {"learner": {"timesteps": {"random_shift": False, "shifts": []}}},
        {"learner": {"timesteps": {"random_offset": False, "offset_variance": 0.0}}},
        {"learner": {"pairs_per_step": 8, "num_workers": 8}},
        {"buffer": {"capacity": 16}},
        {"generator": {"gpus_per_actor": 0.25}},
        {"generator": {"gpus_per_actor": 2.0}},
        {"evaluation": {"videos": 2, "shown_videos": 0}},
        {"stages": [{"kind": "online", "steps": 1}]},
        {"out": "/runs/t", "cluster": {"address": "auto"}},
    ],
)
def test_values_at_the_edge_are_right(sections: dict[str, Any]) -> None:
    build(**sections)


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        build(sampling={"negative_prompt": "blurry", "guidance_scale": 1.0}, buffer={"capacity": 1})
    (problem,) = caught.value.errors()
    assert [line.split(" ")[0] for line in problem["msg"].removeprefix("Value error, ").splitlines()] == [
        "sampling.negative_prompt",
        "buffer.capacity",
    ]
