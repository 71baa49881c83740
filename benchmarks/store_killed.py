"""`kill -9` of a store's writer at random points, again and again in one folder: what was acknowledged must be there.

    python -m benchmarks.store_killed --out benchmarks/results/store_killed.json

Each turn a new process opens the store, which recovers it, and appends pairs one after another, saying so after each.
It is killed at a random moment, counted from its start in one turn and from its first pair in the next. In the end the
store is opened once more and every byte is compared with what was appended. A pair may be there though nobody was told
(its writer was killed between the two); a pair that was acknowledged may not be missing, and nothing torn may be read.
"""

import argparse
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track

from buffers.store.arrow import pairs_batch
from buffers.store.pair_store import PairStore
from tests.buffers.samples import conditioning, pair, same

SHAPE = (16, 8, 16, 16)
A_TURN = 1000
"""Numbers that each writer may use."""


def killed_again_and_again(folder: Path, *, turns: int, seed: int) -> dict:
    """Raises AssertionError if the store does not hold what it promised; otherwise returns what it found."""
    pairs_batch([pair(0)])  # pyarrow imports pandas if it is installed: once here, not in every child.
    chance, acknowledged, before_any, torn = random.Random(seed), [], 0, 0
    for turn in track(range(turns), description="kills"):
        here, there = os.pipe()
        child = os.fork()
        if not child:
            try:
                _write(folder, turn, there)
            finally:
                os._exit(1)
        os.close(there)
        said = b""
        while turn % 2 and b"stored" not in said and (more := os.read(here, 1 << 16)):
            said += more
        time.sleep(chance.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "the writer failed by itself"
        with os.fdopen(here, "rb") as rest:
            words = [line.split() for line in (said + rest.read()).decode().split("\n")[:-1]]
        told = [int(number) for what, number in words if what == "stored"]
        acknowledged += told
        before_any += not told
        torn += sum(int(number) for what, number in words if what == "torn")
    untold = check(folder, acknowledged)
    assert len({number // A_TURN for number in untold}) == len(untold), "more than one append in flight was kept"
    return {
        "kills": turns,
        "acknowledged": len(acknowledged),
        "writers_killed_before_their_first_acknowledgement": before_any,
        "kept_though_nobody_was_told": len(untold),
        "torn_files_set_aside": torn,
    }


def check(folder: Path, acknowledged: list[int]) -> list[int]:
    """Compares every stored pair with its original; returns the pairs that were stored but not yet acknowledged."""
    store = PairStore(folder)
    found = [int(stored.condition_id[1:]) for stored in store.catalog.pairs()]
    assert set(acknowledged) <= set(found), f"lost: {sorted(set(acknowledged) - set(found))[:10]}"
    for number in found:
        wanted = pair(number, condition=number, shape=SHAPE)
        assert same(store.read([wanted.id])[0], wanted), f"pair {number} differs"
        assert same(store.conditionings([wanted.condition_id])[wanted.condition_id], conditioning(number))
    wrong = store.verify()
    assert not wrong, wrong
    store.close()
    return sorted(set(found) - set(acknowledged))


def _write(folder: Path, turn: int, announce: int) -> None:
    store = PairStore(folder)
    assert not store.recovery.missing, store.recovery.missing
    os.write(announce, b"torn %d\n" % len(store.recovery.set_aside))
    for number in range(A_TURN * turn, A_TURN * (turn + 1)):
        store.append([pair(number, condition=number, shape=SHAPE)], [conditioning(number)])
        os.write(announce, b"stored %d\n" % number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("buffers.store.pair_store").setLevel(logging.ERROR)  # It is killed on purpose.
    with tempfile.TemporaryDirectory() as folder:
        found = killed_again_and_again(Path(folder), turns=arguments.kills, seed=arguments.seed)
    print(json.dumps(found))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
