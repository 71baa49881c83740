"""What is refused before Ray starts, on the miniature's own files."""

import re
from collections import Counter
from pathlib import Path

import pytest

from cluster.checks.run import check
from configs.load import load_config


@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("learner.timesteps.high=9", r"learner\.timesteps needs 9 high and 1 low"),
        ("sampling.steps=6", r"sampling\.steps = 6 with shift 3 gives 3 timesteps"),
        ("learner.timesteps.offset_variance=1e6", r"offset_variance = 1e\+06 .* would clip most offsets"),
        ("learner.lora.targets=[to_nowhere]", r"learner\.lora\.targets: 'to_nowhere' matches no linear layer"),
    ],
)
def test_a_learner_that_could_not_work_is_refused_before_anything_starts(override: str, right: str, tmp_path: Path):
    config = load_config("configs/miniature.yaml", [f"out={tmp_path / 'run'}", override])
    (problem,) = check(config).problems
    assert re.search(right, problem)
    assert not list(tmp_path.iterdir())


def test_the_miniature_passes(tmp_path: Path):
    checked = check(load_config("configs/miniature.yaml", [f"out={tmp_path / 'run'}"]))
    assert checked.problems == [] and not checked.goes_on
    assert not {each.prompt for each in checked.training} & {each.prompt for each in checked.held_out}


def test_every_problem_is_found_at_once_and_nothing_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened: Counter[str] = Counter()
    read_text = Path.read_text

    def counting(path: Path, *arguments, **named) -> str:
        opened[str(path)] += 1
        return read_text(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", counting)
    config = load_config("configs/miniature.yaml", [f"out={tmp_path / 'run'}"])
    opened.clear()
    check(config)
    assert {path: count for path, count in opened.items() if count > 1 and path.endswith((".txt", "index.json"))} == {}
    wrong = ["evaluation.prompts=absent.txt", "evaluation.meter=nowhere.to:be", "sampling.height=30", "out=README.md"]
    problems = check(load_config("configs/miniature.yaml", wrong)).problems
    assert len(problems) == 4, problems
    for key in ("evaluation.prompts", "evaluation.meter", "sampling.height", "out="):
        assert any(problem.startswith(key) for problem in problems), key


def test_a_stage_that_would_not_fit_is_found(tmp_path: Path):
    stages = "stages=[{kind: online, steps: 4}, {kind: online, steps: 4, generator: {num_actors: 40}}]"
    (problem,) = check(load_config("configs/miniature.yaml", [f"out={tmp_path / 'run'}", stages])).problems
    assert "40 x generator" in problem


def test_a_prompt_that_cannot_be_asked_for_its_domain_is_found(tmp_path: Path):
    long, prompts = "a red circle moves right, " * 600, tmp_path / "prompts.txt"
    prompts.write_text(f"{long}\na blue square\n")
    given = [f"out={tmp_path / 'run'}", f"prompts.train={prompts}", "prompts.max_characters=100000"]
    (problem,) = check(load_config("configs/miniature.yaml", given)).problems
    assert problem.startswith(f"prompts.train = {prompts}: 'a red circle")
    assert re.search(r"takes [\d,]+ tokens; ranker\.max_model_len = 1024", problem) and len(problem) < 500
    prompts.write_text(f"general\t{long}\na blue square\n")  # what says its domain is not asked
    assert check(load_config("configs/miniature.yaml", given)).problems == []
