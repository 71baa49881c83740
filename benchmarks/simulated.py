"""Does `apogee simulate` foretell the pace of real runs? Runs of the miniature with different balances.

    python -m benchmarks.simulated --steps 60 --out benchmarks/results/simulated.json

Every run is simulated twice: with the costs that it has measured itself, and with those of the first run, which is what
a user has who asks what another config would do. On two cores the costs are not the same: who has a core to himself is
faster. Compared are pairs an hour, from the end of the first third of the steps on.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cluster.commands.simulate import costs_of_run, simulate
from cluster.monitor.rows import read_metrics, step_rows
from configs.load import load_config
from configs.schema import RunConfig

CONFIG = "configs/miniature.yaml"
BALANCES = {
    "as shipped": (),
    "each pair is used once": ("buffer.max_uses=1",),
    "steps of 24 pairs": ("learner.pairs_per_step=24", "learner.microbatch_pairs=8"),
    "7 steps of the sampler in place of 10": ("sampling.steps=7",),
}
SETTINGS = ("evaluation.videos=8", "evaluation.shown_videos=2", "evaluation.best=null")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        first: Path | None = None
        for number, (name, settings) in enumerate(BALANCES.items()):
            place = Path(folder) / str(number)
            overrides = [*SETTINGS, *settings, f"stages.0.steps={given.steps}", f"out={place}"]
            subprocess.run([sys.executable, "-m", "cluster.cli", "run", CONFIG, *overrides], check=True)
            first = first or place
            found[name] = compared(load_config(CONFIG, overrides), place, first)
            print(name, json.dumps(found[name], indent=2), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"steps": given.steps, "runs": found}, indent=2) + "\n", encoding="utf-8")


def compared(config: RunConfig, place: Path, first: Path) -> dict[str, Any]:
    """Pairs an hour of the run in `place`, and as they are simulated with its own costs and with those of `first`."""
    steps = step_rows(read_metrics(place / "metrics.jsonl"))
    start, end = steps[len(steps) // 3 - 1], steps[-1]
    counted = (end["step"] - start["step"]) * config.learner.pairs_per_step
    real = 3600 * counted / (end["time"] - start["time"])
    row: dict[str, Any] = {"pairs_an_hour": round(real)}
    for name, source in (("own_costs", place), ("costs_of_the_first", first)):
        costs = costs_of_run(source)
        simulated = simulate(config, costs, steps=len(steps)).pairs_an_hour
        row[name] = {**{key: round(value, 4) for key, value in costs}, "pairs_an_hour": round(simulated)}
        row[name]["error_percent"] = round(100 * (simulated / real - 1), 1)
    return row


if __name__ == "__main__":
    main()
