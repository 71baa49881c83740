"""The README's `ray job submit` on a head and two nodes: what is uploaded, kept, tracked and scraped."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.small_run import ROOT, STEPS, command

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str], int, Path]]:
    """A real head and two nodes on free ports of this machine, with a CPU each, so that no one of them holds the run.

    Its address, the environment that its clients need, the port that Prometheus scrapes, and Ray's folder.

    Never `ray stop`: that would end every Ray process of the machine.
    """
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PATH": path}
    env |= {"RAY_metrics_report_interval_ms": "1000", "WANDB_MODE": "offline"}
    port, dashboard, agent, metrics, client = _free_ports(5)
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp", ignore_cleanup_errors=True) as short:
        process = subprocess.Popen(
            [
                *(RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=1"),
                *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={short}"),
                *(f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
                *(f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}"),
            ],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        nodes: list[subprocess.Popen[bytes]] = []
        try:
            address = f"http://127.0.0.1:{dashboard}"
            _wait_until_up(f"{address}/api/version", process)
            join = [RAY, "start", "--block", "--disable-usage-stats", f"--address=127.0.0.1:{port}", "--num-cpus=1"]
            for number in range(2):  # one after the other: of two that start at once, one is often never registered
                log = tmp_path / f"node-{number}"
                with log.open("wb") as said:
                    nodes.append(subprocess.Popen(join, env=env, stdout=said, stderr=said, start_new_session=True))
                _wait_until_joined(log, nodes[-1])
            yield address, env, metrics, Path(short)
        finally:
            for each in (*nodes, process):
                each.terminate()
                each.wait(60)


def test_the_run_works_as_a_submitted_job(head: tuple[str, dict[str, str], int, Path], tmp_path: Path):
    address, env, port, ray_folder = head
    folder = tmp_path / "run"  # every node sees it: the shared storage
    entrypoint = command(f"out={folder}", "cluster.address=auto", "cluster.num_cpus=null", "tracker=wandb")
    submit = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", "python", *entrypoint[1:]]
    with (tmp_path / "said").open("wb") as said:
        job = subprocess.Popen(submit, cwd=ROOT, env=env, stdout=said, stderr=said)
        scraped: set[str] = set()
        ends = time.monotonic() + 540
        while job.poll() is None and time.monotonic() < ends:
            scraped |= _names(port)
            time.sleep(2)
        job.kill()
    assert job.returncode == 0, (tmp_path / "said").read_text()[-6000:]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["complete"] and summary["steps"]["done"] == STEPS
    assert (folder / "report.html").is_file()
    assert (folder / "adapter" / "pytorch_lora_weights.safetensors").is_file()

    [tracked] = (folder / "tracker").glob("wandb/offline-run-*")
    videos = [video.name.partition("_")[0] for video in tracked.glob("files/media/videos/videos/*.mp4")]
    assert sorted(videos) == sorted(["000-a", "000-b", "001-a", "001-b"] * 2), "those of before and of after"

    [uploaded] = {
        path.parent for path in ray_folder.glob("session_2*/runtime_resources/working_dir_files/*/pyproject.toml")
    }
    names = {path.name for path in uploaded.iterdir()}
    assert {"cluster", "configs", "examples"} <= names
    assert not names & {".git", ".venv", "runs", "build", "shared", "tests", "docs", "benchmarks"}
    assert sum(path.stat().st_size for path in uploaded.rglob("*") if path.is_file()) < 40 * 2**20

    board = json.loads((ROOT / "docs" / "grafana" / "apogee.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) > 10
    for query in queries:
        assert set(re.findall(r"ray_apogee_\w+", query)) <= scraped, query


def _names(port: int) -> set[str]:
    """Of the gauges that the head's node exports just now."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return set(re.findall(r"^(ray_apogee_\w+)", answer.read().decode(), re.MULTILINE))
    except (urllib.error.URLError, OSError):
        return set()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_until_up(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(120):
        assert process.poll() is None, f"the head ended with code {process.returncode}"
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except urllib.error.HTTPError:  # 401: it is up and asks for the token
            return
        except OSError:
            time.sleep(1)
    raise AssertionError("the head did not come up within two minutes")


def _wait_until_joined(log: Path, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(120):
        if "Ray runtime started" in log.read_text():
            return
        assert process.poll() is None, log.read_text()
        time.sleep(1)
    raise AssertionError(f"a node did not join within two minutes:\n{log.read_text()}")
