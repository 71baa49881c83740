"""What is refused before Ray starts, on the miniature's own files."""

from pathlib import Path

import pytest

from cluster.checks.start import start_checks
from configs.load import load_config


@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("learner.timesteps.high=9", r"learner\.timesteps needs 9 high and 1 low"),
        ("sampling.steps=6", r"sampling\.steps = 6 with shift 3 gives 3 anchors"),
        ("learner.timesteps.offset_variance=1e9", r"offset_variance = 1e\+09 .* would clip most offsets"),
        ("learner.lora.targets=[to_nowhere]", r"learner\.lora\.targets: 'to_nowhere' matches no linear layer"),
    ],
)
def test_a_learner_that_could_not_work_is_refused_before_anything_starts(override: str, right: str, tmp_path: Path):
    config = load_config("configs/miniature.yaml", [f"out={tmp_path / 'run'}", override])
    with pytest.raises(ValueError, match=right):
        start_checks(config)
    assert not list(tmp_path.iterdir())


def test_the_miniature_passes(tmp_path: Path):
    training, held_out, _ = start_checks(load_config("configs/miniature.yaml", [f"out={tmp_path / 'run'}"]))
    assert not {condition.prompt for condition in training} & {condition.prompt for condition in held_out}
