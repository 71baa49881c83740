"""The report's side-by-side videos: same prompt and seed, before on the left, after on the right, inside the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.monitor.rows import Row
from cluster.report.summary import PHASES

EMBEDDED_BYTES = 64 * 2**20
"""How many bytes of video a page carries. The other videos stay in the run folder, and the page says so."""


@dataclass(frozen=True)
class BeforeAfter:
    """The videos of one prompt and seed. A side that was not made is None; `mp4` of a side is the file's content."""

    before: Row | None
    after: Row | None
    change: str
    """`better`, `worse` or `same` by the first figure; "" if one side is missing or was not measured."""

    @property
    def sides(self) -> dict[str, Row | None]:
        return {"before": self.before, "after": self.after}

    @property
    def prompt(self) -> str:
        return (self.before or self.after or {})["prompt"]


def before_and_after(
    folder: Path, evaluations: Mapping[str, Row], figures: Mapping[str, Any], shown: int
) -> tuple[list[BeforeAfter], int]:
    """The first `shown` kept videos of the evaluations, paired; and how many more pairs there are than a page carries.

    figures: of the summary; the first one decides about `change`.
    """
    sides = {
        phase: {
            (Path(entry["file"]).name, entry["prompt"]): entry
            for entry in evaluations.get(phase, {}).get("kept", [])[:shown]
            if _is_inside(folder, folder / entry["file"])
        }
        for phase in PHASES
    }
    pairs: list[BeforeAfter] = []
    size = 0
    names = list(sides["before"] | sides["after"])  # same file name: same request, so same prompt and seed
    for name in names:
        before, after = (sides[phase].get(name) for phase in PHASES)
        both = [
            None if side is None else side | {"mp4": (folder / side["file"]).read_bytes()} for side in (before, after)
        ]
        size += sum(len(side["mp4"]) for side in both if side)
        if size > EMBEDDED_BYTES:
            break
        pairs.append(BeforeAfter(*both, change=_change(before, after, figures)))
    return pairs, len(names) - len(pairs)


def _change(before: Row | None, after: Row | None, figures: Mapping[str, Any]) -> str:
    first = next(iter(figures.items()), None)
    if first is None or before is None or after is None:
        return ""
    name, figure = first
    # A figure against the other side is zero on that side.
    was = 0.0 if figure["against"] else before.get("figures", {}).get(name)
    now = after.get("figures", {}).get(name)
    if was is None or now is None:
        return ""
    if was == now:
        return "same"
    return "better" if (now > was) == (figure["better"] == "higher") else "worse"


def _is_inside(folder: Path, file: Path) -> bool:
    """Nothing else than files of the run folder may be pulled into the page."""
    return file.resolve().is_file() and file.resolve().is_relative_to(folder.resolve())
