"""`kill -9` of a writer: what it acknowledged is there, byte for byte, and nothing torn is read."""

import subprocess
import sys
from pathlib import Path

from buffers.store import PairStore
from tests.buffers.samples import conditioning, pair, same

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (16, 8, 16, 16)
CALLS = 7
"""An append forces two segments, renames both, forces the folder, writes its manifest lines and forces those."""

WRITER = """
import os, random, signal, sys, time
from pathlib import Path
from buffers.arrow import pair_row
from buffers.store import PairStore
from tests.buffers.samples import conditioning, pair

pair_row(pair(0))  # pyarrow imports pandas where it is installed: once here, not in every child.

def append(store, number):
    store.append([pair(number, condition=number, shape=(16, 8, 16, 16))], [conditioning(number)])
"""

AGAIN_AND_AGAIN = """
chance = random.Random(5)
for turn in range(int(sys.argv[2])):
    acknowledged, announce = os.pipe()
    child = os.fork()
    if not child:
        store = PairStore(Path(sys.argv[1]))
        for number in range(1000 * turn, 1000 * (turn + 1)):
            append(store, number)
            os.write(announce, b"%d\\n" % number)
            time.sleep(0.001)
        os._exit(0)
    os.close(announce)
    lines = os.read(acknowledged, 100)
    time.sleep(chance.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    while more := os.read(acknowledged, 10**6):
        lines += more
    print(lines.decode(), end="", flush=True)
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
        for name in ("fsync", "replace", "pwrite"):
            die_at(fatal_call, name)
        append(store, 2)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def check_everything_acknowledged(folder: Path, acknowledged: list[int]) -> list[int]:
    """Returns what is stored though its acknowledgement never came: at most the one append in flight."""
    store = PairStore(folder)
    for number in acknowledged:
        wanted = pair(number, condition=number, shape=SHAPE)
        assert same(store.read([wanted.id])[0], wanted)
        assert same(store.conditionings([wanted.condition_id])[wanted.condition_id], conditioning(number))
    for stored in store.stored():
        store.read([stored.id])
    assert store.verify() == [] and store.recovery.missing == () and store.recovery.orphans == ()
    found = [int(stored.condition_id[1:]) for stored in store.stored()]
    store.close()
    return sorted(set(found) - set(acknowledged))


def test_killed_at_every_system_call_of_an_append(tmp_path):
    command = [sys.executable, "-c", WRITER + AT_EVERY_CALL, str(tmp_path), str(CALLS)]
    codes = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=400).stdout.split()
    assert codes == ["-9"] * CALLS + ["0"]  # The last one shows that there is no further call to die at.
    for fatal_call in range(1, CALLS + 1):
        extra = check_everything_acknowledged(tmp_path / str(fatal_call), [0, 1])
        # Written but not yet forced, the line is there for us, as the machine itself did not go down.
        assert extra == ([2] if fatal_call == CALLS else [])
    assert check_everything_acknowledged(tmp_path / str(CALLS + 1), [0, 1, 2]) == []


def test_killed_at_random_moments_again_and_again(tmp_path):
    """One folder, writers one after another, each killed at some point of its work; the next one recovers."""
    turns = 8
    command = [sys.executable, "-c", WRITER + AGAIN_AND_AGAIN, str(tmp_path), str(turns)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=400).stdout
    acknowledged = [int(line) for line in output.split()]
    assert len({number // 1000 for number in acknowledged}) == turns
    extra = check_everything_acknowledged(tmp_path, acknowledged)
    assert len({number // 1000 for number in extra}) == len(extra)
