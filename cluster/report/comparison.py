"""`report.html` of `apogee evaluate`: figures of every policy, and their videos side by side."""

from pathlib import Path
from typing import Any

from cluster.report.page import write_page
from cluster.report.videos import EMBEDDED_BYTES
from configs.schema import RunConfig


def write_comparison(out: Path, found: dict[str, Any], config: RunConfig) -> Path:
    """Write the page from what is in `comparison.json` and the videos below `out`, and return its path."""
    kept = [policy["kept"] for policy in found["policies"]]
    rows: list[dict[str, Any]] = []
    size = 0
    # The first noise of every prompt comes first: a page that is full has shown many prompts.
    for number in sorted(range(found["videos"]), key=lambda number: (number % found["seeds"], number)):
        sides = [side[number] | {"mp4": (out / side[number]["file"]).read_bytes()} for side in kept]
        size += sum(len(side["mp4"]) for side in sides)
        if size > EMBEDDED_BYTES:
            break
        rows.append({"prompt": sides[0]["prompt"], "sides": sides})
    about = {"names": [name for policy in found["policies"] for name in policy["figures"]], "rows_of_videos": rows}
    sampling = config.sampling.model_dump()
    return write_page(out / "report.html", "comparison.html", sampling=sampling, found=found, **about)
