"""All five stages on the miniature, in one command: `make curriculum`.

    python -m examples.miniature.curriculum seed=1 out=runs/curriculum/1

1. The run does its first stage, online: the judge compares the policy's own videos.
2. That policy makes videos of the training prompts, from noises of their own. The meter labels them, as people would
   (`people.py`), and they are ingested.
3. The same run goes on, from those labels, until guidance is distilled.
4. The student's videos are labelled likewise, and the run does its last stage. Labels of a policy's own videos are what
   teaches it (docs/LOG.md).

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
VIDEOS_PER_PROMPT = 32


def main(overrides: Sequence[str]) -> None:
    """Raises CalledProcessError if one of the commands failed; it has said why."""
    asked = load_config(CONFIG, overrides)
    out = asked.out
    aligned, student = f"{out}-aligned", f"{out}-student"
    stores = [f"buffer.anchors={aligned}-store", f"buffer.offline={aligned}-store"]
    run = ["run", CONFIG, *overrides, *stores, f"stages.4.buffer.offline={student}-store"]
    for last, left, people in ((0, "1-online", aligned), (3, "4-distill", student)):
        if last + 1 in asked.numbers and not Path(f"{people}-store").exists():
            adapter = Path(out) / "adapters" / left
            if not adapter.exists():
                apogee(*run, f"last_stage={last}")
            manifest = Path(people) / "people.jsonl"
            if not manifest.exists():
                config = load_config(CONFIG, [*overrides, f"start_from={adapter}"]).sampled_after(last)
                write_sampled(manifest.parent, config, videos_per_prompt=VIDEOS_PER_PROMPT)
            unfinished = Path(f"{people}-unfinished")
            given = ["--into", str(unfinished), "--config", CONFIG, *overrides, "generator.num_actors=2"]
            apogee("data", "ingest", str(manifest), *given)
            unfinished.rename(f"{people}-store")
    apogee(*run)


def apogee(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "cluster.cli", *arguments], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
