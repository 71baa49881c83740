"""The report's side-by-side videos: same prompt and seed, before on the left, after on the right, inside the page."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from cluster.report.summary import PHASES

EMBEDDED_BYTES = 64 * 2**20
"""How much video a page carries; what is over stays in the run folder and is named."""

Shown = dict[str, Any]
"""An entry of the evaluator's `shown`: file (in the run folder), prompt; with a meter also distorted and motion."""


@dataclass(frozen=True)
class VideoPair:
    before: Shown | None
    after: Shown | None

    @property
    def either(self) -> Shown:
        return self.before or self.after or {}

    @property
    def change(self) -> str:
        """`better`, `worse`, `same`, or "" where one side is missing or was not measured."""
        if self.before is None or self.after is None:
            return ""
        was, now = self.before.get("distorted"), self.after.get("distorted")
        if was is None or now is None:
            return ""
        return "same" if was == now else "better" if was else "worse"


def videos_section(folder: Path, evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """HTML of every pair that the evaluations ("before", "after") kept in the folder, in the order of their making."""
    before, after = (_present(folder, evaluations.get(phase, {}).get("shown", [])) for phase in PHASES)
    pairs = match(before, after)
    if not pairs:
        return '<p class="soft">No videos were kept.</p>'
    shown: list[str] = []
    size = 0
    for pair in pairs:
        size += sum((folder / side["file"]).stat().st_size for side in (pair.before, pair.after) if side)
        if size > EMBEDDED_BYTES:
            break
        shown.append(_figure(pair, folder))
    left = len(pairs) - len(shown)
    note = f"<p>{left} more pairs are in <code>videos/</code>, too large for one page.</p>" if left else ""
    return f'<p>{_introduction(pairs)}</p><div class="pairs">{"".join(shown)}</div>{note}'


def match(before: list[Shown], after: list[Shown]) -> list[VideoPair]:
    """Entries of both phases joined by file name (same request, so same prompt and seed), in the order of `before`."""
    later = {_key(entry): entry for entry in after}
    pairs = [VideoPair(entry, later.pop(_key(entry), None)) for entry in before]
    return pairs + [VideoPair(None, entry) for entry in later.values()]


def _key(entry: Shown) -> tuple[str, str]:
    return Path(entry["file"]).name, entry["prompt"]


def _present(folder: Path, entries: list[Shown]) -> list[Shown]:
    """Entries whose file is there and in the run folder: nothing else may be pulled into the page."""
    inside = folder.resolve()
    return [
        entry
        for entry in entries
        if (file := (folder / entry["file"]).resolve()).is_file() and file.is_relative_to(inside)
    ]


def _introduction(pairs: list[VideoPair]) -> str:
    text = (
        f"The first {len(pairs)} held-out videos, not picked: in each pair both come from the same prompt and the same "
        "seed, before training on the left, after it on the right."
    )
    if any(pair.after is None for pair in pairs):
        text += " Where the right side is empty, the run ended before it was made."
    counts = {change: sum(pair.change == change for pair in pairs) for change in ("better", "worse", "same")}
    if sum(counts.values()):
        text += (
            f" Of these, {counts['better']} were distorted and are no longer (green edge), {counts['worse']} became "
            f"distorted (pink edge), {counts['same']} stayed as they were."
        )
    return text


def _figure(pair: VideoPair, folder: Path) -> str:
    entry = pair.either
    return (
        f'<figure class="pair {pair.change}"><figcaption>{escape(entry["prompt"])}</figcaption><div class="sides">'
        f"{_side('before', pair.before, folder)}{_side('after', pair.after, folder)}</div></figure>"
    )


def _side(phase: str, entry: Shown | None, folder: Path) -> str:
    if entry is None:
        return f'<div><strong class="{phase}">{phase}</strong><div class="absent">not made</div></div>'
    data = base64.b64encode((folder / entry["file"]).read_bytes()).decode("ascii")
    return (
        f'<div><strong class="{phase}">{phase}</strong>'
        f'<video autoplay loop muted playsinline src="data:video/mp4;base64,{data}"></video>{_judgement(entry)}</div>'
    )


def _judgement(entry: Shown) -> str:
    """What the meter says, by sign and word, not by colour alone."""
    distorted, motion = entry.get("distorted"), entry.get("motion")
    parts = [] if distorted is None else ["<b>&#10007; distorted</b>" if distorted else "&#10003; clean"]
    if motion is not None:
        parts.append(f'<span class="soft">motion {motion:.2f}</span>')
    return "<br>".join(parts) or "not measured"
