import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.shadows import shadows
from tests.cluster.small_run import ROOT


def typed_in(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cluster.cli", "--help"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["random.py", "yaml.py", "torch/__init__.py", "policy.py", "learner/__init__.py"])
def test_a_file_that_hides_a_module_is_named(name: str, tmp_path: Path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise AssertionError('it was imported')")
    done = typed_in(tmp_path)
    hiding = file if name.count("/") == 0 else file.parent
    module = hiding.name.removesuffix(".py")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"apogee: {hiding} would be imported in place of the module {module} ")
    assert "AssertionError" not in done.stderr


def test_what_hides_nothing_is_left_alone(tmp_path: Path):
    for folder in ("torch", "data", "tests"):  # without __init__.py the installed package wins
        (tmp_path / folder).mkdir()
    for file in ("rewards.py", "my-random.py", "random.txt", "test.py", "tests/__init__.py"):
        (tmp_path / file).touch()
    assert shadows(str(tmp_path)) == []


def test_the_projects_own_folder_hides_nothing():
    assert shadows(str(ROOT)) == []
