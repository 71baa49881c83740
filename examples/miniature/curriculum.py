"""All five stages on the miniature, in one command: `make curriculum`.

    python -m examples.miniature.curriculum seed=1 out=runs/curriculum/1

1. The run does its first stage, online: the judge compares the policy's own videos.
2. That policy makes videos of the training prompts, from noises of their own. The meter labels them, as people would
   (`people.py`), and they are ingested.
3. The same run goes on with the stages that learn from them.

Given again, it goes on where it was stopped. Arguments are those of `apogee run`; the config is
configs/miniature-curriculum.yaml.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.load import load_config
from examples.miniature.people import write_sampled

CONFIG = "configs/miniature-curriculum.yaml"
VIDEOS_PER_PROMPT = 16


def main(overrides: Sequence[str]) -> None:
    """Raises CalledProcessError if one of the commands failed; it has said why."""
    out = load_config(CONFIG, overrides).out
    people, store = Path(f"{out}-people"), f"{out}-store"
    run = ["run", CONFIG, *overrides, f"buffer.anchors={store}", f"buffer.offline={store}"]
    ingested = people / "ingested"
    if not ingested.exists():
        if not (Path(out) / "adapter").exists():
            apogee(*run, "last_stage=0")
        manifest = people / "people.jsonl"
        if not manifest.exists():
            aligned = load_config(CONFIG, [*overrides, f"start_from={out}/adapter"])
            write_sampled(people, aligned, videos_per_prompt=VIDEOS_PER_PROMPT)
        apogee("data", "ingest", str(manifest), "--into", store, "--config", CONFIG, "generator.num_actors=2")
        ingested.touch()
    apogee(*run)


def apogee(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "cluster.cli", *arguments], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
