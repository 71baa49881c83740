"""`kill -9` of a writer: what it acknowledged is there, byte for byte, and nothing torn is read."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.store_killed import check

ROOT = Path(__file__).resolve().parents[3]
CALLS = 10
"""An append forces and renames three segments, forces the folder, forces and renames its commit, forces the folder."""

WRITER = """
import os, signal, sys
from pathlib import Path
from buffers.store.arrow import pairs_batch
from buffers.store.pair_store import PairStore
from tests.buffers.samples import conditioning, pair

pairs_batch([pair(0)])  # pyarrow imports pandas where it is installed: once here, not in every child.

def append(store, number):
    store.append([pair(number, condition=number, shape=(16, 8, 16, 16))], [conditioning(number)])
"""

AT_EVERY_CALL = """
calls = 0

def die_at(fatal_call, name):
    real = getattr(os, name)
    def counted(*arguments):
        global calls
        calls += 1
        if calls == fatal_call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    setattr(os, name, counted)

for fatal_call in range(1, int(sys.argv[2]) + 2):
    child = os.fork()
    if not child:
        store = PairStore(Path(sys.argv[1]) / str(fatal_call))
        append(store, 0)
        append(store, 1)
        for name in ("fsync", "replace"):
            die_at(fatal_call, name)
        append(store, 2)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_killed_at_every_system_call_of_an_append(tmp_path):
    command = [sys.executable, "-c", WRITER + AT_EVERY_CALL, str(tmp_path), str(CALLS)]
    codes = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=400).stdout.split()
    assert codes == ["-9"] * CALLS + ["0"]  # The last one shows that there is no further call to die at.
    for fatal_call in range(1, CALLS + 1):
        extra = check(tmp_path / str(fatal_call), [0, 1])
        # Renamed but not yet forced, the commit is there for us, as the machine itself did not go down.
        assert extra == ([2] if fatal_call == CALLS else [])
    assert check(tmp_path / str(CALLS + 1), [0, 1, 2]) == []


def test_killed_at_random_moments_again_and_again(tmp_path):
    """One folder, writers one after another; the whole run of 200 is the benchmark's own."""
    command = [sys.executable, "-m", "benchmarks.store_killed", "--kills", "12", "--out", str(tmp_path / "found.json")]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=400)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["kills"] == 12 and found["acknowledged"] >= 6
