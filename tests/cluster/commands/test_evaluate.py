"""What `apogee evaluate` refuses before anything is started, and what it makes of the policies that it is given."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.commands.evaluate import Comparison, prepare
from cluster.run_folder import RunFolder, Sampled
from configs.load import load_config
from configs.schema import RunConfig
from configs.sections import LoraConfig
from policy.lora.adapters import save_lora
from policy.policy import VideoPolicy


@pytest.fixture
def config(tiny_bundle: Path, tmp_path: Path) -> RunConfig:
    (tmp_path / "prompts.txt").write_text("a red circle moving left\na blue square moving up\n")
    changed = [f"model.path={tiny_bundle}", "ranker.kind=function", "learner.lora.rank=2"]
    return load_config(
        Path("configs/miniature.yaml"), [*changed, "ranker.function=examples.miniature.brightness:brightness"]
    )


def run(folder: Path, config: RunConfig, *, rank: int, distilled: bool) -> Path:
    """A run's folder with an adapter, as far as a comparison looks at it."""
    RunFolder(folder).begin(config.model_copy(update={"out": str(folder)}))
    lora = LoraConfig(rank=rank, alpha=rank, targets=["to_q", "ffn.net.2"])
    policy = VideoPolicy.load(config.model.path, dtype="float32", lora=lora)
    save_lora(folder / "adapter", policy.transformers, lora)
    Sampled(distilled, config.sampling.model_copy(update={"guidance_scale": 1.0} if distilled else {})).write(
        folder / "adapter"
    )
    return folder


def prepared(places: list[str], folder: Path, **given: Any) -> Comparison:
    options: dict[str, Any] = {"config": None, "overrides": [], "seeds": 3, "judged": True, "vbench": None, **given}
    return prepare(places, out=folder / "out", **{"prompts": str(folder / "prompts.txt"), **options})


def test_policies_of_different_ranks_fit_into_one_adapter_and_each_has_its_own_sampling(
    config: RunConfig, tmp_path: Path
):
    one, two = (
        run(tmp_path / "one", config, rank=2, distilled=False),
        run(tmp_path / "two", config, rank=3, distilled=True),
    )
    ready = prepared(["base", str(one), str(two)], tmp_path)
    assert [each.name for each in ready.policies] == ["base", "one", "two"]
    assert ready.config.learner.lora == LoraConfig(rank=3, alpha=3, targets=["ffn.net.2", "to_q"])
    assert [each.sampled.sampling.passes for each in ready.policies] == [20, 20, 10]
    assert ready.snapshots[0] is None and ready.snapshots[1].adapter.keys() == ready.snapshots[2].adapter.keys()
    seeds = [seeds for request in ready.requests for seeds in request.seeds]
    assert [len(each) for each in seeds] == [3, 3] and len({seed for each in seeds for seed in each}) == 6
    assert ready.is_judged and ready.config.ranker.both_orders and ready.config.evaluation.videos == 6


def test_one_policy_is_measured_and_compared_with_nothing(config: RunConfig, tmp_path: Path):
    assert not prepared([str(run(tmp_path / "one", config, rank=2, distilled=False))], tmp_path).is_judged


def test_what_cannot_be_compared_is_refused_with_its_name(config: RunConfig, tmp_path: Path):
    one = str(run(tmp_path / "one", config, rank=2, distilled=False))
    with pytest.raises(ValueError, match="none of them lies in a run's folder; name a config with --config"):
        prepared(["base"], tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing: no adapter is there; name base, a run's folder"):
        prepared([one, str(tmp_path / "nothing")], tmp_path)
    with pytest.raises(ValueError, match="one: given twice"):
        prepared([one, one], tmp_path)
    with pytest.raises(ValueError, match=r"--vbench names files after prompts, and 'a cat / a dog'"):
        (tmp_path / "slash.txt").write_text("a cat / a dog\n")
        prepared([one], tmp_path, prompts=str(tmp_path / "slash.txt"), vbench=tmp_path / "vbench")
    other = run(tmp_path / "other", config, rank=2, distilled=False)
    text = (other / "config.yaml").read_text().replace(config.model.path, str(tmp_path / "elsewhere"))
    (other / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"other: is for .*elsewhere, the other policies for"):
        prepared([one, str(other)], tmp_path)
    (Path(one) / "adapter" / "sampling.json").write_text(json.dumps({"distilled": True}))
    with pytest.raises(ValueError, match=r"sampling\.json: is not what a run writes beside an adapter"):
        prepared([one], tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="name a new folder"):
        prepared([one], tmp_path)
