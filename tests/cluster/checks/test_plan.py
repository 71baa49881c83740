from dataclasses import replace
from pathlib import Path

import pytest

from cluster.checks.plan import plan
from cluster.checks.run import Checked
from cluster.commands.check import describe
from configs.load import load_config
from policy.bundle import WAN

CONFIGS = Path(__file__).parents[3] / "configs"

SMALL = """\
name: small
out: runs/small
model: {path: bundle, dtype: float32}
prompts: {train: train.txt}
sampling: {steps: 10, guidance_scale: 2.0, num_frames: 9, height: 32, width: 32}
generator: {cpus_per_actor: 0.5, conditions_per_request: 16}
ranker: {path: judge, cpus_per_actor: 0.5, frames: 8}
learner: {pairs_per_step: 16, gradient_checkpointing: false}
evaluation: {prompts: held_out.txt, videos: 384}
cluster: {num_cpus: 2}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_the_papers_size_by_hand() -> None:
    """720x960, 121 frames: 31 latent frames of 90x120 with 16 channels, in tokens of 1x2x2."""
    figures = plan(load_config(CONFIGS / "wan2.2-i2v-a14b-192xh200.yaml"))
    assert figures.latent_shape == (16, 31, 90, 120)
    assert figures.tokens == 31 * 45 * 60 == 83_700
    assert figures.latent_bytes == 10_713_600  # 10.7 MB, as the design says
    assert figures.pixel_bytes == 250_905_600
    assert figures.training_videos == 2 * 300 * 64
    # Two passes at each of 40 steps; five timesteps of two videos at five passes' worth each.
    assert figures.generation_passes == 300 * 64 * 2 * 80
    assert figures.learning_passes == 300 * 64 * 5 * 2 * 5
    assert figures.rankings == 300 * 64 * 2
    gpus = {role.role: role.count * role.gpus for role in figures.roles}
    assert sum(gpus.values()) == 192
    # The split keeps the two busy alike, within a fifth, where 6 of 10 pairs are kept.
    assert figures.passes["generator"] / 0.6 == pytest.approx(figures.passes["learner"], rel=0.2)


def test_no_guidance_no_checkpointing_and_uniform_timesteps_are_cheaper(small: Path) -> None:
    figures = plan(
        load_config(
            small,
            [
                "sampling.guidance_scale=1",
                "learner.timesteps.kind=uniform",
                "stages.0.steps=3",
                "ranker.both_orders=false",
            ],
        )
    )
    assert figures.generation_passes == 48 * 2 * 10
    assert figures.learning_passes == 48 * 2 * 4  # policy, reference, and twice for the backward pass
    assert figures.rankings == 48


def test_pairs_used_twice_need_half_the_videos(small: Path) -> None:
    config = load_config(small, ["buffer.max_uses=2", "stages.0.steps=4"])
    figures = plan(config)
    assert figures.training_videos == 64
    assert figures.passes["generator"] == 16 * 10 * 2


def test_the_bundles_own_shape_wins(small: Path) -> None:
    facts = replace(WAN, channels=8, in_channels=8, vae_temporal=4, vae_spatial=2, patch=(1, 4, 4), text_dim=100)
    figures = plan(load_config(small), facts)
    assert figures.tokens == 3 * 4 * 4
    assert figures.latent_bytes == 8 * 3 * 16 * 16 * 4  # float32
    assert figures.embedding_bytes == 512 * 100 * 4


def test_each_stage_counts_with_its_own_overrides(small: Path) -> None:
    """Two steps of 16 pairs, then three of 4 with guidance off, then people's own, which nobody generates or judges."""
    stages = (
        "stages=[{kind: online, steps: 2}, {kind: online, steps: 3, learner: {pairs_per_step: 4, microbatch_pairs: 4}, "
        "sampling: {guidance_scale: 1.0}}, {kind: offline, steps: 5}]"
    )
    figures = plan(load_config(small, [stages, "buffer.offline=people"]))
    assert figures.learning_passes == (2 * 16 + 3 * 4 + 5 * 16) * 5 * 2 * 4
    assert figures.training_videos == 2 * (2 * 16 + 3 * 4) and figures.rankings == figures.training_videos
    assert figures.generation_passes == 2 * (2 * 16 * 20 + 3 * 4 * 10)


def test_a_curriculum_is_counted_by_who_works_and_how_it_is_sampled(small: Path) -> None:
    """Anchors make two pairs of two videos; a student is evaluated with one pass a step; a teacher has two or three."""
    stages = "stages=[{kind: half_online, steps: 2}, {kind: distill, steps: 3}]"
    guided = ["sampling.stg_scale=1", "sampling.stg_blocks=[3]", "learner.gradient_checkpointing=false"]
    figures = plan(load_config(small, [stages, *guided, "buffer.anchors=people"]))
    made = 2 * (2 * 16 // 2) + 2 * 3 * 16
    assert (figures.training_videos, figures.rankings) == (made, 0)
    assert figures.generation_passes == made * 30
    # Before, after the first stage, and the student; without a meter and a judge, only the 12 videos that are shown.
    assert figures.evaluation_passes == 12 * (30 + 30 + 10)
    assert figures.learning_passes == 5 * 2 * 16 * (2 * 4 + 3 * 6)
    assert len(figures.notes) == len(set(figures.notes))
    # On the way, after each step: 2 videos of the guided policy twice, of the student three times.
    looked_at = plan(
        load_config(
            small, [stages, *guided, "buffer.anchors=people", "evaluation.every=1", "evaluation.every_videos=2"]
        )
    )
    assert looked_at.evaluation_passes - figures.evaluation_passes == 2 * 2 * 30 + 3 * 2 * 10


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["buffer.capacity=33"], ["buffer.capacity = 33", "32 pairs", "buffer.max_staleness = 1"]),
        (["generator.num_actors=3"], ["generator.num_actors", "48 pairs", "32 are learned"]),
        (
            ["generator.gpus_per_actor=1", "learner.gpus_per_worker=1"],
            # 16 pairs x 2 x 10 x 2 = 640 passes to make and 16 x 10 x 4 = 640 to learn: of two GPUs, one each.
            ["640 passes of generation and 640 of learning", "of 2 GPUs about 1 would learn"],
        ),
        (
            [
                *("generator.gpus_per_actor=1", "generator.num_actors=2", "learner.gpus_per_worker=1"),
                *("stages=[{kind: offline}]", "buffer.offline=people"),
            ],
            ["kind offline leaves 2 GPUs idle", "learner.num_workers"],
        ),
    ],
)
def test_notes_say_what_would_be_wasted(small: Path, overrides: list[str], named: list[str]) -> None:
    (note,) = plan(load_config(small, overrides)).notes
    for text in named:
        assert text in note


def test_a_balanced_config_has_no_notes(small: Path) -> None:
    assert plan(load_config(small)).notes == ()


def test_the_text_tells_stages_roles_and_work(small: Path) -> None:
    text = describe(Checked(load_config(small, ["stages.0.steps=7", "learner.publish_every=2"])))
    assert "small: into runs/small, seed 0" in text
    assert "0. online: 7 steps of 16 pairs, new weights every 2 steps" in text
    assert "in all: 2 CPU and 0 GPU, on this machine (cluster.num_cpus = 2)" in text
    assert "224 videos to learn from and 2 x 384 to measure" in text
    for role in ("generator", "ranker", "learner"):
        assert f"\n  {role}" in text
