"""People's own data of the miniature: videos and a manifest of pairs and labelled videos, for `apogee data ingest`.

    python -m examples.miniature.people runs/people
    apogee data ingest runs/people/people.jsonl --into runs/people_store --config configs/miniature.yaml
    apogee run configs/miniature.yaml buffer.offline=runs/people_store buffer.mix.online=0.75 buffer.mix.offline=0.25

The videos are drawn, and three annotators say of each pair of one prompt which video is less distorted; each of them
is wrong one time in ten. With `--sampled CONFIG` a run's own generator samples the videos instead, from the training
prompts of that config, and the meter is the one annotator, who is never wrong:

    python -m examples.miniature.people runs/annotated --sampled configs/miniature-curriculum.yaml

The policy is the one that the config starts from (`start_from`), or the base.

A good video is not distorted and shows what its prompt asks for. Anchors are good ones (positive), and ones that look
well but show something else (negative). In a pair a good video is preferred to one that shows what was asked, too, and
is distorted: from pairs of what was asked the policy learned to show less of it (docs/LOG.md). Distorted videos move
more than others. So the two of a pair move alike, and the fastest become anchors: who learns from them must not learn
to stand still.
"""

import argparse
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from actors.generator import Generator
from actors.prompts import read_prompts
from buffers.records import Condition, Request
from cluster.evaluation import evaluation_requests
from configs.load import load_config
from configs.schema import RunConfig
from examples.miniature.judge_pairs import write_lossless
from examples.miniature.meter import measure, obeyed
from examples.miniature.world import FPS, all_prompts, draw, render
from media.video_write import write_mp4

ANNOTATORS, WRONG = ("ann", "bob", "cat"), 0.1
FIRST_SEED = 2_000_000
"""Of the sampled videos' noises. No run's stream, no evaluation and none of the judge's videos has these."""
APART = 0.12
"""Pixels per frame: by how much the motion of the two videos of a sampled pair may differ."""
USES = 3
"""In how many pairs a sampled video stands at most."""
ANCHORS = 4
"""Anchors of each polarity that a prompt has at most."""

_generator: Generator
_folder: Path


def write_drawn(folder: Path, *, pairs: int, seed: int) -> Path:
    """A clean and a distorted video of each prompt, in either order, and each as an anchor; the manifest's path.

    Raises FileExistsError if the folder holds a manifest.
    """
    manifest, rng = _new_manifest(folder), np.random.default_rng(seed)
    rows, prompts = [], all_prompts()
    for number in track(range(pairs), description="drawing", transient=True):
        domain, prompt = prompts[int(rng.integers(len(prompts)))]
        clean, distorted = f"{number}-clean.mp4", f"{number}-distorted.mp4"
        for name in (clean, distorted):
            scene = draw(*_content(prompt), rng, name == distorted)
            write_mp4(folder / name, render(scene), fps=FPS)
        condition = {"prompt": prompt, "domain": domain}
        rows += [condition | row for row in _rows(clean, distorted, rng)]
    return _write_rows(manifest, rows)


def _rows(clean: str, distorted: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    first, second, label = (clean, distorted, 1) if rng.random() < 0.5 else (distorted, clean, 2)
    rows: list[dict[str, Any]] = [
        {"a": first, "b": second, "label": 3 - label if rng.random() < WRONG else label, "annotator": name}
        for name in ANNOTATORS
    ]
    rows.append({"video": clean, "polarity": "positive"})
    rows.append({"video": distorted, "polarity": "negative"})
    return rows


def _content(prompt: str) -> tuple[str, str, str]:
    """Colour, subject and direction."""
    _, color, subject, _, direction = prompt.split()
    return color, subject, direction


@dataclass(frozen=True)
class Seen:
    """A sampled video as its annotator saw it. `motion`: pixels per frame."""

    name: str
    condition: Condition
    distorted: bool
    obeyed: bool
    motion: float

    @property
    def good(self) -> bool:
        return self.obeyed and not self.distorted

    @property
    def row(self) -> dict[str, Any]:
        """What a manifest says of its condition. A first frame is copied beside it (`_copy_pictures`)."""
        said = {"prompt": self.condition.prompt, "domain": self.condition.domain}
        return said | ({"first_frame": _copied(self.condition)} if self.condition.picture else {})


def write_sampled(folder: Path, config: RunConfig, *, videos_per_prompt: int, prompts: int | None = None) -> Path:
    """Sample, look and write the manifest; its path. `prompts`: only the first so many.

    Raises FileExistsError if the folder holds a manifest, ValueError if `videos_per_prompt` is odd, as a generator
    makes two videos of a prompt at a time, and if there is nothing to choose between.
    """
    if videos_per_prompt % 2 or videos_per_prompt < 2:
        raise ValueError(f"{videos_per_prompt} videos of each prompt: a generator makes two at a time; use an even one")
    manifest = _new_manifest(folder)
    asked = read_prompts(config.prompts.train, max_characters=config.prompts.max_characters)[:prompts]
    seen = _sample(folder, config, asked, videos=videos_per_prompt * len(asked))
    by_prompt = [[video for video in seen if video.condition.id == condition.id] for condition in asked]
    anchors = [anchor for videos in by_prompt for anchor in choose_anchors(videos)]
    pairs = [pair for videos in by_prompt for pair in choose_pairs(videos)]
    if not anchors or not pairs:
        raise ValueError(f"{len(seen)} videos gave {len(anchors)} anchors and {len(pairs)} pairs; sample more of them")
    print(_told(seen, anchors, pairs))
    _copy_pictures(folder, asked)
    polarity = {True: "positive", False: "negative"}
    rows = [video.row | {"video": video.name, "polarity": polarity[video.good]} for video in anchors]
    rows += [good.row | {"a": good.name, "b": other.name, "label": 1} for good, other in pairs]
    return _write_rows(manifest, rows)


def _sample(folder: Path, config: RunConfig, conditions: Sequence[Condition], *, videos: int) -> list[Seen]:
    """Videos of the conditions in turn as a run would make them, each as a file without loss. One process a core."""
    at_once = config.generator.conditions_per_request
    requests = evaluation_requests(conditions, videos=videos, seed=FIRST_SEED, conditions_per_request=at_once)
    given = (config, folder)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), initializer=_load, initargs=given) as pool:
        looked = track(pool.map(_look, requests), total=len(requests), description="sampling", transient=True)
        return [seen for some in looked for seen in some]


def _load(config: RunConfig, folder: Path) -> None:
    """What a sampling process keeps from request to request."""
    global _generator, _folder
    torch.set_num_threads(1)
    _generator, _folder = Generator(config), folder


def _look(request: Request) -> list[Seen]:
    """The request's videos, written and seen."""
    _, made, _ = _generator.generate(request)
    seen = []
    for clips, pair in zip(made, request.seeds, strict=True):
        for frames, seed in zip((clips.video_a, clips.video_b), pair, strict=True):
            name, prompt = f"{seed}.mkv", clips.condition.prompt
            write_lossless(_folder / name, frames)
            found = measure(frames, prompt)
            as_asked = all(obeyed(frames, prompt).values())
            seen.append(Seen(name, clips.condition, found.distorted, as_asked, found.motion))
    return seen


def choose_anchors(videos: Sequence[Seen]) -> list[Seen]:
    """Of one prompt's videos: good ones, and ones that look well but show something else; of either the fastest.

    Those that look well are slower than all together.
    """
    clean = sorted((video for video in videos if not video.distorted), key=lambda video: -video.motion)
    good = [video for video in clean if video.good]
    return good[:ANCHORS] + [video for video in clean if not video.good][:ANCHORS]


def choose_pairs(videos: Sequence[Seen]) -> list[tuple[Seen, Seen]]:
    """Of one prompt's videos: a good one, and one that moves as much, shows as well what was asked, and is distorted.

    The closest in motion first, as long as neither stands in too many.
    """
    others = [video for video in videos if video.distorted and video.obeyed]
    possible = [(good, other) for good in videos if good.good for other in others]
    uses, chosen = Counter[str](), []
    for good, other in sorted(possible, key=lambda pair: abs(pair[0].motion - pair[1].motion)):
        near = abs(good.motion - other.motion) <= APART
        if near and uses[good.name] < USES and uses[other.name] < USES:
            chosen.append((good, other))
            uses.update((good.name, other.name))
    return chosen


def _copied(condition: Condition) -> str:
    return f"{condition.id}.png"


def _copy_pictures(folder: Path, conditions: Sequence[Condition]) -> None:
    """Byte for byte: what is in the file is part of a condition's id."""
    for condition in conditions:
        if condition.picture is not None:
            shutil.copyfile(condition.picture, folder / _copied(condition))


def _told(seen: Sequence[Seen], anchors: Sequence[Seen], pairs: Sequence[tuple[Seen, Seen]]) -> str:
    """What there is, in words: an annotation that leans towards still videos has to be seen before it is learned."""
    good = [video for video in anchors if video.good]
    bad = [video for video in anchors if not video.good]
    gap = np.mean([first.motion - second.motion for first, second in pairs])
    distorted, obeyed = (np.mean([getattr(video, name) for video in seen]) for name in ("distorted", "obeyed"))
    return (
        f"{len(seen)} videos, {distorted:.1%} distorted, {obeyed:.1%} as asked, {_motion(seen)} pixels a frame\n"
        f"anchors: {len(good)} positive ({_motion(good)} pixels a frame), {len(bad)} negative ({_motion(bad)}), of "
        f"{len({video.condition.id for video in anchors})} prompts\n"
        f"pairs: {len(pairs)}; the preferred one moves {gap:+.2f} pixels a frame more"
    )


def _motion(videos: Sequence[Seen]) -> str:
    return f"{np.mean([video.motion for video in videos]):.2f}" if videos else "-"


def _new_manifest(folder: Path) -> Path:
    """Where the manifest will be written, once all of its files are there."""
    manifest = folder / "people.jsonl"
    if manifest.exists():
        raise FileExistsError(f"{manifest} is there already")
    folder.mkdir(parents=True, exist_ok=True)
    return manifest


def _write_rows(manifest: Path, rows: Iterable[dict[str, Any]]) -> Path:
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=160, help="drawn pairs")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn pairs")
    parser.add_argument("--sampled", type=Path, metavar="CONFIG", help="a run's config: its generator makes the videos")
    parser.add_argument("--videos-per-prompt", type=int, default=16, help="sampled videos of each training prompt")
    arguments = parser.parse_args()
    if arguments.sampled:
        config = load_config(arguments.sampled)
        print(write_sampled(arguments.folder, config, videos_per_prompt=arguments.videos_per_prompt))
    else:
        print(write_drawn(arguments.folder, pairs=arguments.pairs, seed=arguments.seed))


if __name__ == "__main__":
    main()
