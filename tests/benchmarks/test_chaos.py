"""Two minutes of the benchmark in which something is killed every few seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_run_survives_two_minutes_in_which_everything_dies(tmp_path: Path):
    out = tmp_path / "chaos.json"
    options = ["--minutes", "2", "--every", "7", "--drivers", "1", "--steps", "16", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *options], capture_output=True, text=True, timeout=590
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["survived"] and found["steps"] == 16
    assert found["pairs_on_disk"] >= found["pairs_acknowledged"] > 0
    assert sum(found["killed"].values()) >= 6 and found["killed"]["driver"] == 1
