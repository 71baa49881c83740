"""The configs of the families pass `apogee check` on a bundle of that family, a tiny one, with prompts as they ask."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.checks.run import check
from configs.load import load_config
from media.pictures import write_png
from tests.policy.tiny_bundle import FAMILIES, save_tiny_bundle

OF_FAMILY = {
    "wan2.1-t2v-1.3b-1x80gb": "Wan2.1-T2V",
    "wan2.1-t2v-1.3b-8x80gb": "Wan2.1-T2V",
    "wan2.1-t2v-14b-8x80gb": "Wan2.1-T2V",
    "wan2.1-i2v-14b-8x80gb": "Wan2.1-I2V",
    "wan2.2-ti2v-5b-8x80gb": "Wan2.2-TI2V-5B",
    "wan2.2-t2v-a14b-8xh200": "Wan2.2-T2V-A14B",
    "wan2.2-i2v-a14b-8xh200": "Wan2.2-I2V-A14B",
    "wan2.2-i2v-a14b-192xh200": "Wan2.2-I2V-A14B",
}


def test_every_family_and_every_config_is_there():
    assert set(OF_FAMILY.values()) == set(FAMILIES)
    assert {path.stem for path in Path("configs").glob("wan*.yaml")} == set(OF_FAMILY)


@pytest.mark.parametrize("name", OF_FAMILY)
def test_the_config_of_a_family_passes_the_checks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**15))  # as at its usual place
    family = OF_FAMILY[name]
    bundle = save_tiny_bundle(tmp_path / "bundle", **FAMILIES[family])
    write_png(tmp_path / "given.png", np.zeros((720, 960, 3), np.uint8))
    picture = "\tgiven.png" if "I2V" in family and "TI2V" not in family else ""
    for file, prompt in (("train", "a red circle"), ("held_out", "a blue square")):
        (tmp_path / f"{file}.txt").write_text(f"general\t{prompt}{picture}\n")
    overrides = [
        f"model.path={bundle}",
        f"prompts.train={tmp_path / 'train.txt'}",
        f"evaluation.prompts={tmp_path / 'held_out.txt'}",
        f"out={tmp_path / 'run'}",
        "ranker.kind=function",
        "ranker.function=examples.miniature.brightness:brightness",
        "cluster.address=auto",  # this machine has no such GPUs
    ]
    checked = check(load_config(f"configs/{name}.yaml", overrides))
    asked = ("buffer.anchors", "buffer.offline")  # stores of people's own videos
    assert [problem for problem in checked.problems if not problem.startswith(asked)] == []
    assert checked.plan is not None
    assert checked.plan.latent_shape[1] == (checked.config.sampling.num_frames - 1) // 4 + 1
