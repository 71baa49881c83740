"""A run on a two-expert image-to-video bundle, with pictures of three aspects: real Ray, two learner workers."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from benchmarks.run_killed import SETTINGS
from buffers.store.pair_store import PairStore
from cluster import cli
from cluster.monitor.rows import read_metrics, step_rows
from media.pictures import write_png
from media.video_read import read_video
from policy.lora.files import LORA_FILE
from tests.policy.tiny_bundle import FAMILIES, save_tiny_bundle

STEPS, SIZES = 2, {(32, 64), (64, 32), (32, 32)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, prompts with pictures of three aspects, and a config."""
    folder, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    save_tiny_bundle(folder / "bundle", **FAMILIES["Wan2.2-I2V-A14B"])
    for name in ("train", "held_out"):
        lines = []
        for number, (height, width) in enumerate([(40, 80), (80, 40), (60, 60)] * 4):
            file = f"{name}{number}.png"
            write_png(folder / file, rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            lines.append(f"general\ta {['red', 'green', 'blue'][number % 3]} circle\t{file}")
        (folder / f"{name}.txt").write_text("\n".join(lines))
    settings = yaml.safe_load(Path("configs/miniature.yaml").read_text())
    settings["stages"] = [{"kind": kind, "steps": STEPS} for kind in ("online", "distill")]
    settings["sampling"] = {"steps": 8, "guidance_scale": 2.0, "num_frames": 9, "pixels": 2048, "fps": 8.0}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def overrides(folder: Path, workers: int) -> list[str]:
    return [
        *SETTINGS,
        "learner.timesteps={high: 2, low: 1}",
        "learner.microbatch_pairs=2",
        f"learner.num_workers={workers}",
        "learner.cpus_per_worker=0.5",
        "evaluation.videos=6",
        "evaluation.shown_videos=6",
        "evaluation.meter=null",
        f"model.path={folder / 'bundle'}",
        "model.max_text_tokens=16",
        f"prompts.train={folder / 'train.txt'}",
        f"evaluation.prompts={folder / 'held_out.txt'}",
        f"out={folder / str(workers)}",
    ]


def test_what_is_cut_is_said_and_a_side_that_would_vanish_is_refused(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fixed = ["sampling={steps: 8, num_frames: 9, height: 32, width: 32, fps: 8.0}"]
    changes = [*overrides(pictures, 1), f"out={tmp_path / 'run'}"]
    assert cli.main(["check", str(pictures / "run.yaml"), *changes, *fixed]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "8 of 12 first frames have another shape than their videos" in said and "most of all" in said and "50%" in said
    )
    assert cli.main(["check", str(pictures / "run.yaml"), *changes]) == 0
    assert "another shape" not in capsys.readouterr().out
    assert cli.main(["check", str(pictures / "run.yaml"), *changes, "sampling.pixels=256"]) == 2
    said = capsys.readouterr()
    assert "too extreme" in said.out + said.err


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_with_three_aspects_and_two_experts_on_two_learner_workers(pictures: Path):
    """That two workers learn what one learns from three aspects: `on_ray/test_learner_worker.py`."""
    command = [sys.executable, "-m", "cluster.cli", "run", str(pictures / "run.yaml"), *overrides(pictures, 2)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    out = pictures / "2"
    steps = step_rows(read_metrics(out / "metrics.jsonl"))
    assert [row["stage"] for row in steps] == [0, 0, 1, 1]
    assert all(sum(row["experts"].values()) == 3 and min(row["experts"].values()) > 0 for row in steps)
    with contextlib.closing(PairStore(out / "buffer", write=False)) as store:
        shapes = store.catalog.counts()["videos by shape of latents"]
    assert {tuple(8 * int(side) for side in shape.split(" x ")[2:]) for shape in shapes} == SIZES
    shown = [read_video(file)[0] for file in sorted((out / "videos" / "after").glob("*.mp4"))]
    aspects = {height / width for height, width in SIZES}  # small videos are enlarged for people
    assert {video.shape[1] / video.shape[2] for video in shown} == aspects
    assert json.loads((out / "summary.json").read_text())["complete"]
    for place in (".", "transformer_2"):
        adapter = load_file(out / "adapter" / place / LORA_FILE)
        assert max(float(tensor.abs().max()) for name, tensor in adapter.items() if "lora_B" in name) > 1e-4
