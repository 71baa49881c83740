"""The same run as a submitted job: `ray job submit --working-dir . -- python -m cluster.cli run CONFIG`."""

import json
import os
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
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A real head on free ports of this machine: its address, and the environment that its clients need.

    Never `ray stop`: that would end every Ray process of the machine.
    """
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PATH": path}
    port, dashboard, agent, metrics, client = _free_ports(5)
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp", ignore_cleanup_errors=True) as short:
        process = subprocess.Popen(
            [
                *(RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"),
                *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={short}"),
                *(f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
                *(f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}"),
            ],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{dashboard}"
            _wait_until_up(f"{address}/api/version", process)
            yield address, env
        finally:
            process.terminate()
            process.wait(60)


def test_the_run_works_as_a_submitted_job(head: tuple[str, dict[str, str]], tmp_path: Path):
    address, env = head
    folder = tmp_path / "run"
    entrypoint = command(f"out={folder}", "cluster.address=auto", "cluster.num_cpus=null")
    submit = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", "python", *entrypoint[1:]]
    done = subprocess.run(submit, cwd=ROOT, env=env, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["complete"] and summary["steps"]["done"] == STEPS
    assert (folder / "report.html").is_file()
    assert (folder / "adapter" / "pytorch_lora_weights.safetensors").is_file()


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
