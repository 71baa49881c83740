"""What the store costs, as ratios: appends against one plain file, reads against memcpy, and whether size matters.

    python -m benchmarks.buffer --out benchmarks/results/buffer.json

Large: pairs with latents of a Wan2.1 480p video. `append` forces everything to disk, and so does the plain file that
the same bytes are added to; both in turns, on the same disk. `read` takes random batches when everything is cached
and copies every byte out of them, against copying the same bytes out of arrays in memory. Small: stores of 10k, 100k
and 1M pairs with latents of the miniature's size, each opened and taken from in fresh processes.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from buffers.records import Condition, EncodedCondition, Pair, TensorData, Verdict
from buffers.replay import ReplayBuffer
from buffers.store.pair_store import PairStore
from configs.sections import BufferConfig

LARGE, SMALL = (16, 21, 60, 104), (16, 3, 4, 4)
PER_APPEND = {"large": 16, "small": 1000}
VERDICT = Verdict(1, (0.9, 0.04, 0.05, 0.01), 0.99, True, 1, None, "general", "2", "benchmark")
TAKEN, STEPS = 64, 40
BYTES = np.random.default_rng(0).integers(0, 256, 1 << 26, dtype=np.uint8)


def latents(number: int, shape: tuple[int, ...]) -> TensorData:
    """bfloat16; other bytes for each number, as far as memory goes."""
    size = 2 * int(np.prod(shape))
    start = number * 4096 % (len(BYTES) - size)
    return TensorData("bfloat16", shape, BYTES[start : start + size])


def pair(number: int, shape: tuple[int, ...]) -> Pair:
    condition, a, b = f"c{number // 50}", 2 * number, 2 * number + 1
    return Pair(
        id=f"{condition}-{a}-{b}",
        condition_id=condition,
        chosen_id=f"{condition}-{a}",
        rejected_id=f"{condition}-{b}",
        chosen=latents(a, shape),
        rejected=latents(b, shape),
        policy_version=number // 1000,
        source="online",
        verdict=VERDICT,
    )


def conditioning(number: int) -> EncodedCondition:
    return EncodedCondition(Condition(f"c{number}", "a red circle moving left", "general"), latents(number, (16, 64)))


def appended(store: PairStore, first: int, count: int, shape: tuple[int, ...]) -> float:
    """Seconds of one append."""
    pairs = [pair(number, shape) for number in range(first, first + count)]
    conditionings = [conditioning(number) for number in range(first // 50, (first + count - 1) // 50 + 1)]
    started = time.perf_counter()
    store.append(pairs, conditionings)
    return time.perf_counter() - started


def written(path: Path, first: int, count: int, shape: tuple[int, ...]) -> float:
    """Seconds of adding the same latents to one plain file and forcing it to disk."""
    pairs = [pair(number, shape) for number in range(first, first + count)]
    started = time.perf_counter()
    with open(path, "ab") as file:
        for some in pairs:
            file.write(some.chosen.data.data)
            file.write(some.rejected.data.data)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - started


def large(folder: Path, rounds: int) -> dict:
    """Append and read, in ratios of what the machine does at best."""
    store, count = PairStore(folder / "large"), PER_APPEND["large"]
    times: dict[str, list[float]] = {"append": [], "plain": []}
    for turn in range(rounds):
        for name in ("append", "plain") if turn % 2 else ("plain", "append"):
            if name == "append":
                times[name].append(appended(store, turn * count, count, LARGE))
            else:
                times[name].append(written(folder / "plain", turn * count, count, LARGE))
    ids = [stored.id for stored in store.catalog.pairs()]
    for path in (folder / "large").glob("*.arrow"):
        path.read_bytes()  # Into the page cache.
    rng, size = np.random.default_rng(1), latents(0, LARGE).nbytes
    target = np.empty(size, np.uint8)
    times |= {"read": [], "memcpy": []}
    for _ in range(rounds):
        chosen = [ids[place] for place in rng.choice(len(ids), count, replace=False)]
        started = time.perf_counter()
        for some in store.read(chosen):
            np.copyto(target, some.chosen.data)
            np.copyto(target, some.rejected.data)
        times["read"].append(time.perf_counter() - started)
        held = [np.array(data) for some in store.read(chosen) for data in (some.chosen.data, some.rejected.data)]
        started = time.perf_counter()
        for data in held:
            np.copyto(target, data)
        times["memcpy"].append(time.perf_counter() - started)
    store.close()
    middle = {name: statistics.median(some) for name, some in times.items()}
    gigabytes = 2 * count * size / 1e9
    return {
        "latents": list(LARGE),
        "append_against_plain_file": round(middle["plain"] / middle["append"], 3),
        "read_against_memcpy": round(middle["memcpy"] / middle["read"], 3),
        "gigabytes_per_second": {name: round(gigabytes / value, 3) for name, value in middle.items()},
    }


def fill(folder: Path, pairs: int) -> float:
    """Seconds to fill a store with small pairs, whose waiting pairs are then entered once."""
    started, count = time.perf_counter(), PER_APPEND["small"]
    store = PairStore(folder)
    for first in range(0, pairs, count):
        appended(store, first, count, SMALL)
    store.close()
    asyncio.run(opened(folder).close())
    return time.perf_counter() - started


def opened(folder: Path) -> ReplayBuffer:
    return ReplayBuffer(BufferConfig(capacity=10**7, max_staleness=10**6, max_uses=10**3), folder=folder, seed=0)


def taken(folder: Path, step: int) -> dict:
    """Opening and taking in this process, and the most memory it ever had."""
    started = time.perf_counter()
    replay = opened(folder)
    open_s, take_s = time.perf_counter() - started, []

    async def take() -> None:
        for turn in range(STEPS):
            began = time.perf_counter()
            await replay.take(step + turn, TAKEN)
            take_s.append(time.perf_counter() - began)
        await replay.close()

    asyncio.run(take())
    # Not getrusage's figure: a process that is started inherits its parent's.
    most = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return {"open_s": open_s, "take_s": statistics.median(take_s), "memory_mib": int(most.split()[1]) / 1024}


def small(folder: Path, pairs: int, rounds: int) -> dict:
    seconds = fill(folder, pairs)
    command = [sys.executable, "-m", "benchmarks.buffer", "--taken", str(folder)]
    runs = []
    for turn in range(rounds):
        printed = subprocess.run([*command, str(turn * STEPS)], check=True, capture_output=True, text=True).stdout
        runs.append(json.loads(printed))
    shutil.rmtree(folder)
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return {
        "pairs": pairs,
        "fill_s": round(seconds, 1),
        "open_ms": round(1000 * middle["open_s"], 2),
        "take_ms": round(1000 * middle["take_s"], 2),
        "memory_mib": round(middle["memory_mib"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="on the disk that is measured; a temporary folder otherwise")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--taken", nargs=2, metavar=("STORE", "STEP"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.taken:
        print(json.dumps(taken(Path(arguments.taken[0]), int(arguments.taken[1]))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        result: dict = {"large": large(Path(name), arguments.rounds), "small": []}
        print(json.dumps(result["large"]), flush=True)
        for pairs in arguments.pairs:
            result["small"].append(small(Path(name) / "small", pairs, arguments.rounds))
            print(json.dumps(result["small"][-1]), flush=True)
    first, last = result["small"][0], result["small"][-1]
    result["most_against_fewest_pairs"] = {
        key: round(last[key] / first[key], 2) for key in ("open_ms", "take_ms", "memory_mib")
    }
    print(json.dumps(result["most_against_fewest_pairs"]))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
