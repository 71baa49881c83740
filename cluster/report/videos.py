"""The report's side-by-side videos: same prompt and seed, before on the left, after on the right, inside the page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.monitor.rows import Row
from cluster.report.summary import PHASES

EMBEDDED_BYTES = 64 * 2**20
"""How many bytes of video a page carries. The other videos stay in the run folder, and the page says so."""

PICKED = 3
"""How many pairs that became better, and how many that became worse, are shown first."""


def before_and_after(
    folder: Path, evaluations: Mapping[str, Row], figures: Mapping[str, Any], shown: int
) -> tuple[list[dict[str, Any]], int]:
    """The first `shown` kept videos of the evaluations, paired; and how many more pairs there are than a page carries.

    A pair has `prompt`, `sides` (phase -> what was kept, with the file's content as `mp4`; a video that was not made is
    missing), `change`: `better`, `worse` or `same` by the first of the summary's `figures`, "" if it is not known, by
    how much (`amount`), and whether it is `picked`: of those that became better, and of those that became worse, the
    `PICKED` with the largest amounts, of equals the first.
    """
    sides = {
        phase: {
            (Path(entry["file"]).name, entry["prompt"]): entry
            for entry in evaluations.get(phase, {}).get("kept", [])[:shown]
            if _is_inside(folder, folder / entry["file"])
        }
        for phase in PHASES
    }
    pairs: list[dict[str, Any]] = []
    size = 0
    names = list(sides["before"] | sides["after"])  # same file name: same request, so same prompt and seed
    for name in names:
        pair = {
            phase: kept[name] | {"mp4": (folder / kept[name]["file"]).read_bytes()}
            for phase, kept in sides.items()
            if name in kept
        }
        size += sum(len(side["mp4"]) for side in pair.values())
        if size > EMBEDDED_BYTES:
            break
        change, amount = _change(pair, figures)
        pairs.append({"prompt": name[1], "sides": pair, "change": change, "amount": amount, "picked": False})
    for change in ("better", "worse"):
        changed = sorted((pair for pair in pairs if pair["change"] == change), key=lambda pair: -pair["amount"])
        for pair in changed[:PICKED]:
            pair["picked"] = True
    return pairs, len(names) - len(pairs)


def _change(pair: Mapping[str, Row], figures: Mapping[str, Any]) -> tuple[str, float]:
    if pair.keys() != set(PHASES) or not figures:
        return "", 0.0
    name, figure = next(iter(figures.items()))
    was, now = (pair[phase].get("figures", {}).get(name) for phase in PHASES)
    if figure["against"]:
        was = 0.0  # a figure against the other side is zero on that side
    if was is None or now is None:
        return "", 0.0
    if was == now:
        return "same", 0.0
    return "better" if (now > was) == (figure["better"] == "higher") else "worse", abs(float(now) - float(was))


def _is_inside(folder: Path, file: Path) -> bool:
    """Only files of the run folder may be pulled into the page."""
    return file.resolve().is_file() and file.resolve().is_relative_to(folder.resolve())
