"""What is loaded by what, asked of fresh interpreters; the static side of the same rules is `make check`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "vllm", "diffusers", "transformers", "peft")


def loaded_by(code: str, *, names: tuple[str, ...] = HEAVY) -> set[str]:
    """Which of the named packages a fresh interpreter has loaded after running the code."""
    report = f"import sys\n{code}\nprint('LOADED', *[name for name in {names!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split()[1:])


def test_the_method_itself_needs_neither_ray_nor_vllm() -> None:
    assert not loaded_by("import learner.objectives.dpo, policy.flow, buffers.records", names=("ray", "vllm"))


@pytest.mark.parametrize(
    "module", ["configs.load", "cluster.checks.plan", "buffers.records", "cluster.cli", "cluster.board"]
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    assert not loaded_by(f"import {module}")


def test_the_process_of_the_metrics_loads_no_torch() -> None:
    assert loaded_by("import cluster.monitor.metrics, cluster.on_ray.in_actor") == {"ray"}


def test_the_probe_sees_what_is_loaded() -> None:
    assert loaded_by("import policy.flow") == {"torch"}


def test_check_never_loads_ray_and_torch_only_once_the_files_are_good() -> None:
    code = "from cluster.cli import main\nassert main(['check', 'configs/miniature.yaml'{}]) == {}"
    assert not loaded_by(code.format(", 'prompts.train=absent.txt'", 2))
    assert not loaded_by(code.format("", 0), names=("ray", "vllm"))
