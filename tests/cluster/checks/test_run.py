"""What is refused before Ray starts, on the miniature's own files."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from cluster.checks.run import check
from configs.load import load_config
from tests.inputs import READ, says


@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("learner.timesteps.high=9", r"learner\.timesteps needs 9 high and 1 low"),
        ("sampling.steps=6", r"sampling\.steps = 6 with shift 3 gives 3 timesteps"),
        ("learner.timesteps.offset_variance=1e6", r"offset_variance = 1e\+06 .* would clip most offsets"),
        ("learner.lora.targets=[to_nowhere]", r"learner\.lora\.targets: 'to_nowhere' matches no linear layer"),
        # And of a run that learns from a reward:
        (
            "reward.path=examples/miniature/weights/judge",
            r"reward\.path = .*judge: config\.json is of a 'qwen3_vl' model",
        ),
        ("reward.path=examples/miniature/prompts", r"reward\.path = .*prompts: holds no config\.json"),
        ("reward.words=absent.yaml", r"reward\.words = .*absent\.yaml"),
        ("reward.words=configs/miniature.yaml", r"reward\.words = .*want the keys positive and negative"),
        ("learner.timesteps.levels=[0.0, 0.01]", r"no jump of 0\.1 of it stays at or below 0\.99"),
    ],
)
def test_a_learner_that_could_not_work_is_refused_before_anything_starts(override: str, right: str, tmp_path: Path):
    of_a_reward = override.startswith(("reward", "learner.timesteps.levels"))
    config = load_config(f"configs/miniature{'-srpo' * of_a_reward}.yaml", [f"out={tmp_path / 'run'}", override])
    (problem,) = check(config).problems
    assert re.search(right, problem)
    assert not list(tmp_path.iterdir())


def test_the_miniature_passes(tmp_path: Path):
    checked = check(load_config("configs/miniature.yaml", [f"out={tmp_path / 'run'}"]))
    assert checked.problems == [] and not checked.goes_on
    assert not {each.prompt for each in checked.training} & {each.prompt for each in checked.held_out}


def test_what_a_reward_does_not_see_of_prompts_and_levels_is_said(tmp_path: Path):
    (tmp_path / "prompts.txt").write_text(f"general\ta red circle {'moving ' * 10}left\ngeneral\ta red circle\n")
    early = "learner.timesteps.levels=[0.0, 0.5]"
    config = load_config(
        "configs/miniature-srpo.yaml", [f"out={tmp_path / 'run'}", f"prompts.train={tmp_path / 'prompts.txt'}", early]
    )
    checked = check(config)
    assert checked.problems == [] and checked.plan is not None
    assert "1 of 2 prompts are longer than reward.path reads: it sees their beginning" in checked.plan.notes
    assert any("levels of direct_align are left out" in note for note in checked.plan.notes)


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


def test_a_tracker_that_would_get_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = load_config("configs/miniature.yaml", [f"out={tmp_path / 'run'}", "tracker=wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert check(config).problems == []
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (problem,) = check(config).problems
    assert problem.startswith("tracker = wandb: nobody is logged in; run `wandb login`")
    monkeypatch.setenv("WANDB_API_KEY", "short")  # last: wandb keeps what it has read
    (problem,) = check(config).problems
    assert "40+ characters, has 5" in problem
    monkeypatch.setitem(sys.modules, "wandb", None)
    (problem,) = check(config).problems
    assert "is not installed" in problem and "[wandb]" in problem


def test_a_stage_that_would_not_fit_is_found(tmp_path: Path):
    stages = "stages=[{kind: online, steps: 4}, {kind: online, steps: 4, generator: {num_actors: 40}}]"
    (problem,) = check(load_config("configs/miniature.yaml", [f"out={tmp_path / 'run'}", stages])).problems
    assert "40 x generator" in problem


LONG = "a red circle moves right, " * 600
PROMPTS: dict[str, tuple[str, str]] = {
    "a prompt": ("a red circle\n", READ),
    "a prompt with its domain": ("general\ta red circle\n", READ),
    "a long prompt with its domain, which the judge is not asked for": (f"general\t{LONG}\n", READ),
    "a long prompt without a domain": (LONG + "\n", "'a red circle … takes … tokens; ranker.max_model_len = 1024"),
    "another domain": ("person\ta red circle\n", "line 1: domain = 'person'"),
    "a line without text": ("a red circle\n\n", "line 2: prompt = ''; want the text"),
    "bytes that are not UTF-8": ("caf\udce9\n", "not UTF-8 text (byte 3), in line 1"),
    "no prompt": ("", "holds no prompt"),
}


@pytest.mark.parametrize(("text", "words"), PROMPTS.values(), ids=list(PROMPTS))
def test_a_file_of_prompts_is_read_or_refused(text: str, words: str, tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes(text.encode("utf-8", "surrogateescape"))
    given = [f"out={tmp_path / 'run'}", f"prompts.train={prompts}", "prompts.max_characters=100000"]
    problems = check(load_config("configs/miniature.yaml", given)).problems
    if words == READ:
        assert problems == []
    else:
        (problem,) = problems
        assert says(problem, f"prompts.train = {prompts}: … {words}") and len(problem) < 500, problem
