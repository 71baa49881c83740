"""`apogee data inspect STORE`: what is in it, counted, and a picture of some of it."""

import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from buffers.records import TensorData
from buffers.store.encoded_by import check_encoded_by
from buffers.store.pair_store import PairStore
from configs.schema import RunConfig
from ranker.frames import spread

SHOWN_VALUES = 12
"""Of each count; the others are summed up."""

SHOWN_PAIRS, SHOWN_ANCHORS, FRAMES = 8, 4, 3

_LABELS = {None: "choice alone", 1: "1, A less distorted", 2: "2, B less distorted", 3: "3, A moves better"}
_LABELS[4] = "4, B moves better"


def counts(store: PairStore) -> dict[str, dict[str, int]]:
    """What is counted -> value -> how many."""
    return {
        what: {_LABELS[value] if "verdict" in what else str(value): count for value, count in values.items()}
        for what, values in store.catalog.counts().items()
    }


def print_counts(store: PairStore) -> None:
    """A table of everything that is counted, then sizes, what it was made for, and what is wrong with it."""
    table = Table(title=str(store.place), title_justify="left", title_style="bold", show_header=False)
    for what, values in counts(store).items():
        shown = list(values.items())[:SHOWN_VALUES]
        rest = sum(values.values()) - sum(count for _, count in shown)
        lines = [f"{value}: {count:,}" for value, count in shown]
        lines += [f"{len(values) - len(shown):,} others: {rest:,}"] if rest else []
        table.add_row(what, "\n".join(lines) or "none", end_section=True)
    sizes = Counter[str]()
    for segment in store.catalog.segments():
        sizes[segment.kind] += segment.bytes
    for kind, size in sizes.most_common():
        table.add_row(f"{kind}, on disk", f"{size / 1e6:,.1f} MB")
    for name, value in store.encoded_by.items():
        table.add_row(f"encoded by: {name}", value)
    for name, what in (store.recovery.missing | store.recovery.set_aside).items():
        table.add_row(f"wrong: {name}", what)
    Console(highlight=False).print(table)


def draw_sheet(config: RunConfig, store: PairStore, path: Path) -> Path:
    """A PNG of frames of pairs and anchors from all over the store. Raises ValueError where there is nothing to draw,
    or the config's bundle is not the one that the store was made with.
    """
    held = ((store.catalog.ids("pairs"), SHOWN_PAIRS), (store.catalog.ids("anchors"), SHOWN_ANCHORS))
    pairs, anchors = ([ids[place] for place in spread(len(ids), count)] for ids, count in held)
    if not pairs and not anchors:
        raise ValueError(f"{store.place} holds no videos")
    from matplotlib.figure import Figure

    from buffers.tensors import decode
    from cluster.checks.bundle import encoded_by
    from policy.policy import VideoPolicy

    policy = VideoPolicy.load(config.model.path, dtype=config.model.dtype, experts=False)
    check_encoded_by(store.place, encoded_by(policy.facts, max_text_tokens=config.model.max_text_tokens))
    read, anchored = store.read(pairs), store.anchors(anchors)
    prompts = store.conditionings({item.condition_id for item in (*read, *anchored)})
    rows: list[tuple[str, str, dict[str, TensorData]]] = []
    for pair in read:
        facts = f"{pair.source}, {f'label {pair.verdict.label}' if pair.verdict else 'choice alone'}"
        rows.append((pair.condition_id, facts, {"chosen": pair.chosen, "rejected": pair.rejected}))
    for anchor in anchored:
        name = "positive" if anchor.positive else "negative"
        rows.append((anchor.condition_id, "anchor", {name: anchor.latents}))
    widths = [2.0, *[1.0] * FRAMES, 0.12, *[1.0] * FRAMES]
    figure = Figure(figsize=(1.3 * sum(widths), 1.75 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
    for axes, (condition, facts, videos) in zip(grid, rows, strict=True):
        for ax in axes:
            ax.axis("off")
        prompt = textwrap.fill(prompts[condition].condition.prompt, 28)
        axes[0].text(0.0, 0.5, f"{prompt}\n{facts}", va="center", fontsize=8)
        for number, (name, latents) in enumerate(videos.items()):
            video = policy.decode(decode(latents)[None])[0]
            for place, frame in enumerate(np.linspace(0, len(video) - 1, FRAMES).round().astype(int)):
                ax = axes[1 + number * (FRAMES + 1) + place]
                ax.imshow(video[frame], interpolation="nearest")
                ax.set_title(f"{name}, frame {frame}" if place == 0 else f"{frame}", fontsize=8)
    figure.savefig(path, dpi=110)
    return path
