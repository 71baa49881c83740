"""The learner in a real Ray Train group: one worker and two learn the same, from pairs and from a reward."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from buffers.records import Candidates, Condition, EncodedCondition, Request, Slot, Snapshot, TensorData, Verdict
from buffers.tensors import decode, encode
from cluster import run_state
from configs.load import load_config
from configs.schema import RunConfig
from tests.learner.tiny_clip import save_tiny_clip

pytestmark = pytest.mark.ray

STEPS, PAIRS = 5, 4
SHAPES = ((16, 3, 8, 8), (16, 3, 4, 16), (16, 3, 16, 4))


def config_for(bundle: Path, reward: Path, *, workers: int) -> RunConfig:
    return load_config(
        Path("configs/miniature.yaml"),
        [
            f"model.path={bundle}",
            f"learner.num_workers={workers}",
            f"learner.pairs_per_step={PAIRS}",
            "learner.microbatch_pairs=2",
            "learner.publish_every=1",
            "learner.checkpoint_every=50",
            "learner.lora.rank=2",
            "cluster.num_cpus=4",
            f"reward={{path: {reward}, words: {reward}/words.yaml}}",
            f"stages=[{{kind: online, steps: {STEPS}}}, {{kind: direct_align, steps: {STEPS}, inversion: true}}]",
        ],
    )


def pairs(count: int) -> tuple[list[Candidates], list[Verdict]]:
    """Random latents of three shapes that the tiny bundle takes."""
    generator = torch.Generator().manual_seed(3)

    def latents(index: int) -> TensorData:
        return encode(torch.randn(SHAPES[index % 3], generator=generator))

    condition = Condition("c", "a red circle moving left", "general")
    conditioning = EncodedCondition(condition, encode(torch.randn((16, 32), generator=generator)))
    candidates = [
        Candidates(condition, conditioning, (2 * index, 2 * index + 1), latents(index), latents(index), 0)
        for index in range(count)
    ]
    return candidates, [Verdict(1, (0.97, 0.01, 0.01, 0.01), 1.0, True, 1, None, "general", "1", "test")] * count


def learn(bundle: Path, reward: Path, folder: Path, *, workers: int) -> tuple[Snapshot, list[dict[str, Any]], Path]:
    """The last snapshot that was published, the metric rows, and the last checkpoint's folder."""
    import ray

    from buffers.replay import ReplayBuffer
    from buffers.weight_store import WeightStore
    from cluster.board import Board
    from cluster.on_ray.learner_worker import Stage, make_trainer
    from cluster.run_folder import RunFolder, Sampled
    from configs.sections import BufferConfig, MixConfig

    @ray.remote(num_cpus=0)
    class Metrics:
        def __init__(self) -> None:
            self.rows: list[dict[str, Any]] = []

        def record(self, kind: str, row: dict[str, Any]) -> None:
            self.rows.append({"kind": kind, **row})

        def all(self) -> list[dict[str, Any]]:
            return self.rows

    weights, metrics = ray.remote(num_cpus=0)(WeightStore).remote(ray.put), Metrics.remote()
    config, board = config_for(bundle, reward, workers=workers), ray.remote(num_cpus=0)(Board).remote()
    trainer = make_trainer(config, folder=RunFolder(folder), board=board, weights=weights, metrics=metrics)
    with ThreadPoolExecutor() as threads:
        group = threads.submit(trainer.fit)
        for number, mix in enumerate((MixConfig(), MixConfig(online=0.0, unjudged=1.0))):
            settings = BufferConfig(capacity=32, max_staleness=9, mix=mix)
            buffer = ray.remote(num_cpus=0)(ReplayBuffer).remote(settings, folder=folder / f"buffer{number}", seed=0)
            candidates, verdicts = pairs(STEPS * PAIRS)
            request = Request((), (), Slot("unjudged", 0)) if number else None
            assert ray.get(buffer.add.remote(candidates, verdicts, request)) == STEPS * PAIRS
            stage = Stage(config.of_stage(number), number, Sampled.after(config, number), buffer)
            ended = board.do.remote([ray.put(stage)])
            while not ray.wait([ended], timeout=1)[0] and not group.done():
                pass
            if number or group.done():
                ray.get(board.close.remote())  # no other stage follows
        group.result()
    reference, _ = ray.get(weights.newest.remote(-1))
    return ray.get(reference), ray.get(metrics.all.remote()), run_state.folders(folder / "checkpoints")[-1]


def test_one_worker_and_two_learn_the_same(ray_here: None, tiny_bundle: Path, tmp_path: Path):
    reward = save_tiny_clip(tmp_path / "reward")
    (reward / "words.yaml").write_text("{positive: [clean], negative: [broken]}")
    one, rows, checkpoint = learn(tiny_bundle, reward, tmp_path / "one", workers=1)
    two, rows_of_two, _ = learn(tiny_bundle, reward, tmp_path / "two", workers=2)
    assert one.version == two.version == 2 * STEPS + 1
    moved = 0.0
    for name, tensor in one.adapter.items():
        ours, theirs = decode(tensor), decode(two.adapter[name])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        if "lora_B" in name:
            moved = max(moved, float(ours.abs().max()))
    assert moved > 1e-3  # B starts at zero and a step of AdamW moves every weight by about the learning rate
    steps = [[row for row in these if row["kind"] == "step"] for these in (rows, rows_of_two)]
    assert [row["step"] for row in steps[0]] == [row["step"] for row in steps[1]] == [*range(1, 2 * STEPS + 1)]
    for ours, theirs in zip(*steps, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert [row.get("reward") is None for row in steps[0]] == [True] * STEPS + [False] * STEPS
    assert (checkpoint / "state.safetensors").is_file()
    assert (checkpoint / "adapter" / "pytorch_lora_weights.safetensors").is_file()
