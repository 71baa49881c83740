"""Does a run survive whatever dies? A run on three nodes, of which something is killed every few seconds.

    python -m benchmarks.chaos --minutes 10 --out benchmarks/results/chaos.json

A cluster of three raylets on this machine; the miniature with a function as its judge. Every few seconds a process of
a random role gets SIGKILL, or one of the two nodes that the driver is not on is taken away and another one comes. The
driver is killed, too, with nothing to say farewell, and started again by the same command. After the minutes everything
is left alone until the run has ended. Then: is every pair there that was acknowledged, and were the steps made that the
config names? Exits with 1 if not.
"""

import argparse
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.run_killed import SETTINGS
from cluster.monitor.rows import of_kind, read_metrics, step_rows

ROLES = (
    *("Generator", "FunctionRanker", "RayTrainWorker", "TrainController"),
    *("ReplayBuffer", "MetricsLog", "WeightStore", "Evaluator", "Board"),
)
HERE = (
    *("cluster.address=auto", "cluster.num_cpus=null", "cluster.max_failures=1000"),
    *("generator.num_actors=2", "generator.cpus_per_actor=0.5", "ranker.num_actors=2", "ranker.cpus_per_actor=0.1"),
    *("buffer.max_staleness=2", "learner.checkpoint_every=1"),
    # How bright a video is is learned by heart in 80 steps, and a guard would end the stage then.
    *("learner.max_drift=null", "learner.max_accuracy=null", "learner.max_loss=null"),
)
NODE = {"num_cpus": 2, "object_store_memory": 150 * 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long something is killed every few seconds")
    parser.add_argument("--every", type=float, default=6.0, help="seconds between two kills, on the mean")
    parser.add_argument("--drivers", type=int, default=3, help="how often the driver is killed")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--patience", type=float, default=15.0, help="minutes for the run to end after the last kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        found = survived(Path(folder), **{name: value for name, value in vars(given).items() if name != "out"})
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    sys.exit(not found["survived"])


def survived(
    folder: Path, *, minutes: float, every: float, drivers: int, steps: int, patience: float, seed: int
) -> dict[str, Any]:
    """What was killed, and what the run was like at its end."""
    rng, run, killed = random.Random(seed), folder / "run", Counter[str]()
    with cluster(folder) as (nodes, env):
        started = time.monotonic()
        ends, of_driver = started + 60 * minutes, [60 * minutes * (each + 1) / (drivers + 1) for each in range(drivers)]
        driver = start(run, steps, env)
        while driver.poll() is None and time.monotonic() < ends + 60 * patience:
            time.sleep(rng.expovariate(1 / every) if time.monotonic() < ends else 1.0)
            if of_driver and time.monotonic() - started > of_driver[0]:
                of_driver.pop(0)
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait()
                killed["driver"] += 1
                driver = start(run, steps, env)
            elif time.monotonic() < ends:
                killed[kill_one(rng, nodes)] += 1
        code = driver.poll()
        if code is None:
            os.killpg(driver.pid, signal.SIGKILL)
        seconds = time.monotonic() - started
    found = (
        at_the_end(run, steps)
        if code == 0
        else {"survived": False, "said": (folder / "driver.log").read_text()[-3000:]}
    )
    return {**found, "killed": dict(killed), "exit_code": code, "seconds": round(seconds)}


def at_the_end(run: Path, steps: int) -> dict[str, Any]:
    """Acknowledged pairs against those on disk, the steps, and what the run itself has counted."""
    from buffers.store.pair_store import PairStore

    rows = read_metrics(run / "metrics.jsonl")
    acknowledged = max((row["added"] for row in of_kind(rows, "verdicts")), default=0)
    store = PairStore(run / "buffer", write=False)
    ids = store.catalog.ids("pairs")
    readable = sum(len(store.read(ids[at : at + 50])) for at in range(0, len(ids), 50))
    store.close()
    made = [int(row["step"]) for row in step_rows(rows)]
    complete = made == list(range(1, steps + 1)) and json.loads((run / "summary.json").read_text())["complete"]
    return {
        "survived": complete and readable == len(ids) >= acknowledged > 0,
        "steps": len(made),
        "pairs_acknowledged": acknowledged,
        "pairs_on_disk": readable,
        "losses_counted": dict(Counter(row["role"] for row in of_kind(rows, "failure"))),
    }


def kill_one(rng: random.Random, nodes: "Nodes") -> str:
    """Kills a process of a random role, or a node; says of what."""
    running: dict[str, list[psutil.Process]] = {}
    for process in psutil.Process().children(recursive=True):  # another Ray of this machine is left alone
        with suppress(psutil.NoSuchProcess):
            title = (process.cmdline() or [""])[0].removeprefix("ray::").partition(".")[0].split(" ")[0]
            if title in ROLES:
                running.setdefault(title, []).append(process)
    target = rng.choice((*sorted(running), "node"))
    if target == "node":
        nodes.replace(rng)
    else:
        with suppress(psutil.NoSuchProcess):
            rng.choice(running[target]).kill()
    return target


def start(run: Path, steps: int, env: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cluster.cli", "run", "configs/miniature.yaml", *SETTINGS, *HERE]
    with (run.parent / "driver.log").open("ab") as log:
        return subprocess.Popen(
            [*command, f"stages.0.steps={steps}", f"out={run}"], env=env, stdout=log, stderr=log, start_new_session=True
        )


class Nodes:
    """The nodes beside the head."""

    def __init__(self, made: Any, count: int) -> None:
        self._cluster = made
        self._nodes = [made.add_node(**NODE) for _ in range(count)]

    def replace(self, rng: random.Random) -> None:
        self._cluster.remove_node(self._nodes.pop(rng.randrange(len(self._nodes))), allow_graceful=False)
        self._nodes.append(self._cluster.add_node(**NODE))


@contextmanager
def cluster(folder: Path, *, nodes: int = 2) -> Iterator[tuple[Nodes, dict[str, str]]]:
    """A head and so many nodes; and the environment in which a driver joins them."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    quiet = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {**quiet, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # read when ray is imported
    from ray.cluster_utils import Cluster

    Path("/tmp/ray").mkdir(exist_ok=True)  # where Ray notes its address, whatever its folder is

    made = Cluster(initialize_head=True, head_node_args={**NODE, "temp_dir": str(folder / "ray")})
    try:
        yield Nodes(made, nodes), {**os.environ, "RAY_ADDRESS": str(made.address)}
    finally:
        made.shutdown()


if __name__ == "__main__":
    main()
