"""One command with nothing faked: real Ray, Ray Train and vLLM on the miniature, at the smallest size."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cluster import run_state
from cluster.monitor.rows import of_kind, read_metrics
from tests.cluster.small_run import PAIRS, SHOWN, STEPS, VIDEOS, started

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


def test_one_command_aligns_the_miniature(tmp_path: Path):
    folder = tmp_path / "run"
    with started(f"out={folder}") as process:
        out, err = process.communicate(timeout=540)
    assert process.returncode == 0, f"{out}\n{err}"
    assert err == ""  # Ray's, vLLM's and transformers' noise goes to files
    assert "adapter" in out and "Traceback" not in out
    assert "start, waiting for Ray" in out and "evaluation before, waiting for " in out

    rows = read_metrics(folder / "metrics.jsonl")
    steps = of_kind(rows, "step")
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [row["version"] for row in steps] == list(range(1, STEPS + 1))
    assert all(row["staleness_max"] <= 1 for row in steps)
    verdicts = of_kind(rows, "verdicts")[-1]
    assert verdicts["judged"] >= verdicts["added"] >= verdicts["taken"] == STEPS * PAIRS
    assert sum(verdicts[f"label_{label}"] for label in (1, 2, 3, 4)) == verdicts["judged"]
    assert {row["role"] for row in of_kind(rows, "roles")} >= {"generator", "ranker", "learner", "buffer"}

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["complete"] and not summary["interrupted"]
    for phase in ("before", "after"):
        assert summary["figures"]["distorted"][phase]["of"] == VIDEOS
        assert len(list((folder / "videos" / phase).glob("*.mp4"))) == SHOWN
    assert "<video" in (folder / "report.html").read_text(encoding="utf-8")
    assert list((folder / "tracker").glob("*.db"))
    assert list((folder / "logs").rglob("worker-*.err"))

    adapter = load_file(folder / "adapter" / "pytorch_lora_weights.safetensors")
    assert max(float(tensor.abs().max()) for name, tensor in adapter.items() if "lora_B" in name) > 1e-4


def test_ctrl_c_stops_within_30_seconds_and_keeps_what_was_done(tmp_path: Path):
    folder = tmp_path / "run"
    with started(f"out={folder}", "stages.0.steps=1000", "evaluation.videos=2", "evaluation.shown_videos=2") as process:
        deadline = time.monotonic() + 480
        while len(of_kind(read_metrics(folder / "metrics.jsonl"), "step")) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the run did not come to its second step"
            time.sleep(0.5)
        pressed = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, f"{out}\n{err}"
    assert time.monotonic() - pressed < 30
    assert str(folder) in err and "out=" in err and "Traceback" not in err
    assert (folder / "adapter" / "pytorch_lora_weights.safetensors").is_file()
    done = len(of_kind(read_metrics(folder / "metrics.jsonl"), "step"))
    state = run_state.newest(folder / "checkpoints")
    assert state is not None and state.step == done
    assert list((folder / "buffer").glob("pairs-*.arrow"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["interrupted"] and not summary["complete"]
    assert (folder / "report.html").is_file()
