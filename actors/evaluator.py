"""The role that measures and keeps videos of held-out prompts, before and after. Nobody learns from what it says."""

import importlib
import json
import math
import statistics
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from actors.prompts import first_frame
from buffers.figures import NOT_VALUES, Value
from buffers.records import CandidateVideos, Condition, ShownVideos
from configs.user_function import user_function
from media.video_read import read_video
from media.video_write import write_mp4
from media.whole import drop_torn_line

EXAMPLE = "examples.miniature.meter:figures"
ABOUT = "FIGURES"
"""The constant beside a meter: name of each figure -> (which direction is better, unit)."""

SHOWN_SIDE = 256
"""Small videos are enlarged (nearest neighbour) to about this many pixels, so that a browser does not blur them."""

JUDGED = {
    "net win rate": {"better": "higher", "unit": "wins less losses per video"},
    "win": {"better": "higher", "unit": "of videos"},
    "tie": {"better": None, "unit": "of videos"},
    "loss": {"better": "lower", "unit": "of videos"},
}
"""The figures if a judge compares each video with that of another phase; `against` names it."""

FRAMED = {"first frame kept": {"better": "higher", "unit": "dB"}}
"""The figure of videos that begin with a given picture: how like it the first frame is (PSNR; `EQUAL_DB` if equal)."""

REWARD = {"reward": {"better": "higher", "unit": "of the reward that is learned from"}}
"""The figure of a run that learns from a reward. It is no witness: the meter's figures are."""

EQUAL_DB = 100.0

Meter = Callable[[np.ndarray, str], Mapping[str, Value]]
Reward = Callable[[np.ndarray, str], float] | None
"""None: the run learns from none."""


@dataclass
class Video:
    """One video of an evaluation. `side`: its height, pixels. `seconds`: how long it took to make. `file`: its path
    in the run folder if it was kept."""

    condition: Condition
    version: int
    side: int
    seconds: float
    file: str | None = None
    figures: dict[str, Value] = field(default_factory=dict)


class Evaluator:
    """Measures every video with `meter` and keeps the first `kept` of each phase under `out/videos/<phase>/`.

    A video has its number in every phase: `videos/before/003-a.mp4` and `videos/after/003-a.mp4` have the same prompt
    and noise. A video that is measured again takes the place of what was measured before.

    meter: `module:function`, `(frames uint8 [frames, height, width, 3], prompt) -> {name: value}`, or None. A bool
        becomes a rate, a number a mean, a text is counted. The module's constant `FIGURES` names every bool and number:
        name -> (better, unit), with better "higher" or "lower". The first figure is the one that the report colours
        videos by.
    reward: `(frames, prompt) -> number`, if the run learns from one.
    journal: a file to which every measured video is added, and from which an evaluator in the place of a dead one knows
        what was measured.

    `about`: what `FIGURES` says, by name. Raises ValueError if the meter cannot be imported or `FIGURES` is missing or
    wrong.
    """

    def __init__(
        self, meter: str | None, out: Path, kept: int, fps: float, reward: Reward = None, journal: Path | None = None
    ) -> None:
        self._name = meter
        self._meter: Meter | None = None
        self.about: Mapping[str, Mapping[str, Any]] = {}
        if meter is not None:
            self._meter = user_function(meter, key="evaluation.meter", example=EXAMPLE)
            self.about = _about(meter)
        self._reward = reward
        self._out, self._limit, self._fps = Path(out), kept, fps
        self._videos: dict[str, dict[int, Video]] = {}
        self._against: dict[str, str] = {}
        self._journal = journal
        if journal is not None and journal.exists():
            drop_torn_line(journal)  # what it was about is asked again
            for line in journal.read_text(encoding="utf-8").splitlines():
                self._recall(json.loads(line))

    def measure(self, phase: str, first: int, shown: list[ShownVideos], keep: bool = True) -> int:
        """Measure all videos and keep the first ones; returns how many that were.

        first: the number of the first of them. keep: whether any are kept as files.

        Raises OSError if a video cannot be written, ValueError if the meter's names are not those of `FIGURES`, and
        whatever the meter raises.
        """
        videos, number = self._videos.setdefault(phase, {}), first
        for each in shown:
            height, width = each.videos[0].shape[1:3]
            given = first_frame(each.condition, height=height, width=width)
            for letter, frames in zip(string.ascii_letters, each.videos, strict=False):
                video = Video(each.condition, each.policy_version, frames.shape[1], each.seconds)
                if self._meter is not None:
                    video.figures = self._checked(self._meter(frames, each.condition.prompt))
                if self._reward is not None:
                    video.figures |= dict.fromkeys(REWARD, self._reward(frames, each.condition.prompt))
                if given is not None:
                    video.figures |= dict.fromkeys(FRAMED, _likeness(frames[0], given))
                if keep and number < self._limit:
                    video.file = f"videos/{phase}/{number // len(each.videos):03d}-{letter}.mp4"
                    self._write(video.file, frames)
                videos[number] = video
                number += 1
        self._note(phase, range(first, number))
        return number - first

    def measured(self, phase: str, version: int) -> set[int]:
        """Numbers of the phase's videos that were measured already, of this version of the policy."""
        return {number for number, video in self._videos.get(phase, {}).items() if video.version == version}

    def pairs(self, phase: str, against: str, first: int, count: int) -> list[CandidateVideos]:
        """`count` videos of the phases `against` and `phase`, from number `first` on, read from files of the same kind.

        A is the video of `against`; of every odd pair it is that of `phase`, so that a judge that prefers the first
        video favours neither side. Raises FileNotFoundError if a video of either phase is not there.
        """
        pairs, videos = [], self._videos[phase]
        for number in range(first, min(first + count, len(videos))):
            video = videos[number]
            assert video.file is not None, "videos that a judge compares are all kept"
            other = self._read(video.file.replace(f"/{phase}/", f"/{against}/"), video.side)
            own = self._read(video.file, video.side)
            a, b = (own, other) if number % 2 else (other, own)
            pairs.append(CandidateVideos(video.condition, a, b, self._fps, video.version))
        return pairs

    def judged(self, phase: str, against: str, first: int, outcomes: Sequence[dict[str, Value]]) -> None:
        """What a judge said of the `pairs` from number `first` on; the names are those of `JUDGED`."""
        self._against[phase] = against
        for number, outcome in enumerate(outcomes, start=first):
            video = self._videos[phase][number]
            video.figures = outcome | {name: each for name, each in video.figures.items() if name not in outcome}
        self._note(phase, range(first, first + len(outcomes)))

    def summary(self, phase: str) -> dict[str, Any]:
        """Plain JSON values: how many `videos`, the median `seconds` that one took to make, those `kept`, what is
        `about` the figures, and every measured video.

        Raises ValueError for a phase that was never measured.
        """
        if phase not in self._videos:
            raise ValueError(f"no video was measured in phase {phase!r}, only in {sorted(self._videos)}")
        videos = [video for _, video in sorted(self._videos[phase].items())]
        measured = [video for video in videos if video.figures]
        names = measured[0].figures if measured else ()
        about = {**self.about, **self._about_judged(phase), **(REWARD if self._reward else {})}
        about |= FRAMED if any(video.condition.picture for video in videos) else {}
        return {
            "videos": len(videos),
            "seconds": statistics.median(video.seconds for video in videos),
            "kept": [
                {"file": video.file, "prompt": video.condition.prompt, "domain": video.condition.domain}
                | ({"figures": video.figures} if video.figures else {})
                for video in videos
                if video.file
            ],
            "about": about,
            "measured": {
                "prompt": [video.condition.prompt for video in measured],
                "domain": [video.condition.domain or "unknown" for video in measured],
                **{name: [video.figures[name] for video in measured] for name in names},
            },
        }

    def _note(self, phase: str, numbers: Iterable[int]) -> None:
        if self._journal is not None:
            videos = {number: asdict(self._videos[phase][number]) for number in numbers}
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"phase": phase, "against": self._against.get(phase), "videos": videos}) + "\n")

    def _recall(self, noted: dict[str, Any]) -> None:
        """One line of the journal."""
        if noted["against"] is not None:
            self._against[noted["phase"]] = noted["against"]
        for number, video in noted["videos"].items():
            size = video["condition"]["size"]
            condition = Condition(**{**video["condition"], "size": size and tuple(size)})
            self._videos.setdefault(noted["phase"], {})[int(number)] = Video(**{**video, "condition": condition})

    def _about_judged(self, phase: str) -> dict[str, dict[str, Any]]:
        """What is about the judge's figures, if it was asked about this phase."""
        against = self._against.get(phase)
        return {name: {**about, "against": against} for name, about in JUDGED.items()} if against else {}

    def _checked(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """The meter's values as plain ones. Raises ValueError unless the bools and numbers are those of `FIGURES`."""
        # JSON does not know numpy's types.
        plain: dict[str, Value] = {name: each.item() if hasattr(each, "item") else each for name, each in given.items()}
        numbers = {name: value for name, value in plain.items() if not isinstance(value, str)}
        if numbers.keys() != self.about.keys():
            raise ValueError(
                f"evaluation.meter = {self._name}: returned the figures {sorted(numbers)}, and {ABOUT} of its module "
                f"names {sorted(self.about)}; both must name the same"
            )
        if taken := plain.keys() & set(NOT_VALUES):
            raise ValueError(f"evaluation.meter = {self._name}: {sorted(taken)} are no names for what is measured")
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise ValueError(f"evaluation.meter = {self._name}: {name} is {number}; it must be finite")
        return plain

    def _write(self, file: str, frames: np.ndarray) -> None:
        path = self._out / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, frames, fps=self._fps, scale=max(1, round(SHOWN_SIDE / max(frames.shape[1:3]))))

    def _read(self, file: str, height: int) -> np.ndarray:
        """The frames at the height that they were made with: one pixel of each that was enlarged."""
        frames, _ = read_video(self._out / file)
        scale = frames.shape[1] // height
        return np.ascontiguousarray(frames[:, scale // 2 :: scale, scale // 2 :: scale])


def _likeness(frame: np.ndarray, given: np.ndarray) -> float:
    error = np.square(frame.astype(np.float64) - given).mean()
    return min(EQUAL_DB, 10 * math.log10(255**2 / error)) if error else EQUAL_DB


def _about(meter: str) -> dict[str, dict[str, Any]]:
    """What `FIGURES` of the meter's module says of each figure. Raises ValueError if it is missing or wrong."""
    declared = getattr(importlib.import_module(meter.partition(":")[0]), ABOUT, None)
    try:
        checked = TypeAdapter(dict[str, tuple[Literal["higher", "lower"], str]]).validate_python(declared)
    except ValidationError as error:
        raise ValueError(
            f"evaluation.meter = {meter}: its module needs a constant {ABOUT}, name of each figure -> (which direction "
            f'is better, unit), e.g. {{"motion": ("higher", "pixels per frame")}}; found {declared!r}'
        ) from error
    return {name: {"better": better, "unit": unit} for name, (better, unit) in checked.items()}
