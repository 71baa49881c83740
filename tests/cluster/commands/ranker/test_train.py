"""The judge's fine-tuning in real Ray Train groups, on video files, and what is refused before any of it starts."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from cluster import cli
from configs.ranker import RankerTrainingConfig
from examples.miniature.world import FPS, draw_any, render
from learner.mesh import Mesh
from media.video_write import write_mp4
from ranker.training.examples import Example
from tests.cluster.commands.ranker.videos import damaged, video
from tests.cluster.commands.ranker.videos import manifest as pairs_file

JUDGE = Path("examples/miniature/weights/judge")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Eight human pairs of drawn videos and two others; one of each is distorted."""
    rng = np.random.default_rng(0)
    rows = []
    left = {"human": 8, "general": 2}
    while any(left.values()):
        clean = draw_any(rng)
        if not left[clean.domain]:
            continue
        left[clean.domain] -= 1
        bad = next(scene for scene in iter(lambda: draw_any(rng, True), None) if scene.domain == clean.domain)
        names = [f"{len(rows)}{side}.mp4" for side in "ab"]
        for name, scene in zip(names, (clean, bad), strict=True):
            write_mp4(tmp_path / name, render(scene), fps=FPS)
        rows.append({"a": names[0], "b": names[1], "domain": clean.domain, "label": 1})
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def config_file(folder: Path, **changed: Any) -> Path:
    given = {
        "name": "tiny",
        "out": str(folder / "out"),
        "path": str(JUDGE),
        "dtype": "float32",
        "pairs": str(folder / "pairs.jsonl"),
        "frames": 9,
        "steps": 4,
        "pairs_per_step": 2,
        "questions_per_microbatch": 4,
        "gradient_checkpointing": False,
        "checkpoint_every": 2,
        "lora": {"rank": 4, "alpha": 4},
        "cluster": {"num_cpus": 2},
    }
    path = folder / "ranker.yaml"
    path.write_text(yaml.safe_dump(given | changed))
    return path


def train(manifest: Path, name: str, **changed: Any) -> Path:
    """The human adapter, in a Ray Train group of its own; the training's folder."""
    from cluster.commands.ranker.train import _open, _pairs_by_domain, _train_domain
    from cluster.monitor.progress import Progress

    given = yaml.safe_load(config_file(manifest.parent).read_text())
    config = RankerTrainingConfig.model_validate(given | {"out": str(manifest.parent / name)} | changed)
    folder = _open(config)
    with Progress(config.steps) as progress:
        _train_domain(config, "human", _pairs_by_domain(config)["human"], folder, progress)
    return folder


@pytest.mark.ray
@pytest.mark.slow
def test_one_worker_and_two_train_the_same_and_a_stopped_training_goes_on(ray_here: None, manifest: Path) -> None:
    """Straight through on one worker; on two, and stopped on the way by a video that has gone."""
    from cluster.commands.ranker.train import _pairs_by_domain
    from ranker.training.examples import ExampleStream

    one = train(manifest, "one")
    given = yaml.safe_load((one / "config.yaml").read_text())
    config = RankerTrainingConfig.model_validate(given)
    human = _pairs_by_domain(config)["human"]
    stream = ExampleStream(human, config)
    gone = human[stream._order(0)[4]].a  # first needed in the third step
    gone.rename(gone.with_suffix(".away"))
    # Whether every file is there is looked at before; here it goes after that.
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Exception, match=gone.name):
        patch.setattr("cluster.commands.ranker.train._pairs_by_domain", lambda config: {"human": human})
        train(manifest, "two", num_workers=2, cluster={"num_cpus": 2, "max_failures": 0})
    gone.with_suffix(".away").rename(gone)
    two = train(manifest, "two", num_workers=2, cluster={"num_cpus": 2, "max_failures": 0})

    ours, theirs = (load_file(folder / "human" / "adapter_model.safetensors") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
    assert max(float(tensor.abs().max()) for name, tensor in ours.items() if "lora_B" in name) > 1e-5
    steps = [
        [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (one, two)
    ]
    assert steps == [[1, 2, 3, 4], [1, 2, 3, 4]]  # the first two were not done again


def test_what_is_wrong_is_said_before_anything_starts(
    manifest: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.commands.ranker.train.connected", lambda *a, **k: pytest.fail("Ray was started"))
    folder = manifest.parent

    def refused(*overrides: str, **changed: Any) -> str:
        assert cli.main(["ranker", "train", str(config_file(folder, **changed)), *overrides]) == 2
        assert not (folder / "out").exists()
        return capsys.readouterr().err

    assert "learning_rat = 1: unknown key; did you mean learning_rate?" in refused("learning_rat=1")
    assert "path: no folder" in refused(path=str(folder / "nowhere"))
    assert "no 'to_q'; it has" in refused(lora={"targets": ["to_q"]})
    shipped = str(JUDGE.parent / "judge_adapters" / "human")
    assert "start_from.human: " in refused(start_from={"human": str(folder)})
    rank = json.loads((Path(shipped) / "adapter_config.json").read_text())["r"]
    assert f"is of rank {rank}, want lora.rank = 4" in refused(start_from={"human": shipped})
    assert "no manifest" in refused(pairs=str(folder / "none.jsonl"))
    good = manifest.read_text()
    manifest.write_text(good + '\n{"a": "0a.mp4", "b": "99b.mp4", "domain": "human", "label": 1}\n')
    assert "pairs.jsonl, row 11: b = '99b.mp4': no such file" in refused()
    manifest.write_text(good)
    (folder / "3b.mp4").write_bytes((folder / "3b.mp4").read_bytes()[:300])
    assert "3b.mp4: not a video" in refused()
    manifest.write_text("\n".join(line for line in good.splitlines() if '"human"' not in line))
    assert "no usable pair of domain 'human'" in refused("skip_bad_rows=true")


def test_a_folder_of_another_training_is_left_alone(manifest: Path) -> None:
    from cluster.commands.ranker.train import _open

    given = yaml.safe_load(config_file(manifest.parent).read_text())
    folder = _open(RankerTrainingConfig.model_validate(given))
    before = (folder / "config.yaml").read_text()
    assert _open(RankerTrainingConfig.model_validate(given)) == folder
    with pytest.raises(ValueError, match=r"another config \(config\.yaml differs\)"):
        _open(RankerTrainingConfig.model_validate(given | {"seed": 1}))
    assert (folder / "config.yaml").read_text() == before


def test_what_cannot_be_taught_is_known_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.commands.ranker.train.connected", lambda *a, **k: pytest.fail("Ray was started"))
    good, other = video(tmp_path / "good.mp4"), video(tmp_path / "other.mp4", level=30)

    def refused(bad: Path, **changed: Any) -> str:
        pairs_file(tmp_path, (good, other), (bad, other), domain="human")
        assert cli.main(["ranker", "train", str(config_file(tmp_path, domains=["human"], **changed))]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "short.mp4: has 2 frames; a video that is slowed needs at least 5" in refused(
        video(tmp_path / "short.mp4", frames=2)
    )
    assert "cannot read frames of 1800 x 8" in refused(video(tmp_path / "thin.mp4", height=8, width=1800))
    # The checkpoint's own limit: a training has no other one.
    limit = json.loads((JUDGE / "config.json").read_text())["text_config"]["max_position_embeddings"]
    long = video(tmp_path / "long.mp4", height=480, width=832, frames=2 + limit // 150)
    assert f"max_position_embeddings of the checkpoint's config.json = {limit}" in refused(
        long, frames=2 + limit // 150
    )


class FakeFinetune:
    """Counts the examples of each step."""

    seen: ClassVar[list[int]] = []

    def __init__(self, config: RankerTrainingConfig, **_: Any) -> None:
        self.steps = 0

    def step(self, examples: Sequence[Example]) -> dict[str, float]:
        self.seen.append(len(examples))
        self.steps += 1
        return {"step": float(self.steps)}

    def save(self, folder: Path) -> None:
        (folder / "state").touch()


class Handle:
    """Calls a method here and now, as `.remote(...)`."""

    def __init__(self, method: Any) -> None:
        self.remote = method


@pytest.mark.parametrize(("bad", "steps"), [(1, 4), (3, 0)])
def test_data_that_cannot_be_read_is_no_lost_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int, steps: int
) -> None:
    """One bad pair of three is replaced; without a good one the worker ends, as all ranks do: no restart helps."""
    from cluster.commands.ranker.train import _pairs_by_domain
    from cluster.on_ray import judge_worker

    files = [(video(tmp_path / f"{i}a.mp4"), video(tmp_path / f"{i}b.mp4", level=30)) for i in range(3)]
    for file, _ in files[:bad]:
        damaged(file)
    pairs_file(tmp_path, *files, domain="human")
    given = yaml.safe_load(config_file(tmp_path, domains=["human"]).read_text())
    config = RankerTrainingConfig.model_validate(given)
    rows: list[tuple[str, dict[str, Any]]] = []
    metrics = SimpleNamespace(record=Handle(lambda kind, row: rows.append((kind, row))))
    monkeypatch.setattr(FakeFinetune, "seen", [])
    monkeypatch.setattr(judge_worker, "Finetune", FakeFinetune)
    monkeypatch.setattr(judge_worker, "device", lambda: "cpu")
    monkeypatch.setattr(judge_worker, "ranks", Mesh)
    pairs = _pairs_by_domain(config)["human"]
    states = tmp_path / "states"
    judge_worker.judge_worker(
        {"config": config, "domain": "human", "pairs": pairs, "metrics": metrics, "states": states}
    )
    assert FakeFinetune.seen == [4] * steps
    assert [row["step"] for kind, row in rows if kind == "step"] == list(range(1, steps + 1))
    told = [row["why"] for kind, row in rows if kind == "left_out"]
    assert len(told) == len(set(told)) == bad and all("a.mp4: " in why for why in told)


def test_a_training_that_ended_early_is_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.commands.ranker import train as command

    given = yaml.safe_load(config_file(tmp_path).read_text())
    config = RankerTrainingConfig.model_validate(given)
    row = {"time": 1.0, "kind": "left_out", "name": "human", "why": "1a.mp4: is damaged"}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")

    async def fit(*_: Any) -> None:
        pass

    monkeypatch.setattr(command, "judge_group", lambda *_: (None, None))
    monkeypatch.setattr(command, "_fit", fit)
    with pytest.raises(ValueError, match=r"no pair of domain 'human' can be read any more[\s\S]*1a\.mp4: is damaged"):
        command._train_domain(config, "human", [], tmp_path, None)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "human").exists()
