"""The role that measures videos of held-out prompts, before and after; it teaches nobody."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from buffers.figures import normal_interval, wilson_interval
from buffers.records import Clips, Condition, Measurement
from configs.user_function import user_function
from media.video_write import write_mp4

EXAMPLE = "examples.miniature.meter:measure"
SHOWN_SIDE = 256
"""Small videos are enlarged (nearest neighbour) to about this many pixels, so that a browser does not blur them."""

Meter = Callable[[np.ndarray, str], Measurement]


class Evaluator:
    """Measures every video with `meter` and keeps the first `shown` of each phase under `out/videos/<phase>/`.

    "First" and the file names go by the order of arrival: measure the same requests in the same order in every phase,
    so that `videos/before/003-a.mp4` and `videos/after/003-a.mp4` are the same prompt and noise.

    `meter`: `module:function`, `(frames uint8 [frames, height, width, 3], prompt) -> Measurement`, or None to keep
    videos only. Raises ValueError if it cannot be imported.
    """

    def __init__(self, meter: str | None, out: Path, shown: int, fps: float) -> None:
        self._meter = user_function(meter, key="evaluation.meter", example=EXAMPLE) if meter is not None else None
        self._out = Path(out)
        self._shown = shown
        self._fps = fps
        self._measured: dict[str, list[tuple[Condition, Measurement | None]]] = {}
        self._kept: dict[str, list[dict[str, Any]]] = {}

    def measure(self, phase: str, clips: list[Clips]) -> int:
        """Measure both videos of every clip; how many that were.

        Raises OSError where a video cannot be written, and whatever the meter raises.
        """
        measured = self._measured.setdefault(phase, [])
        before = len(measured)
        for clip in clips:
            for letter, frames in (("a", clip.video_a), ("b", clip.video_b)):
                measurement = self._meter(frames, clip.condition.prompt) if self._meter else None
                if len(measured) < self._shown:
                    self._keep(phase, f"{len(measured) // 2:03d}-{letter}.mp4", clip.condition, frames, measurement)
                measured.append((clip.condition, measurement))
        return len(measured) - before

    def summary(self, phase: str) -> dict[str, Any]:
        """Plain JSON values: figures over all videos, the same `by_domain`, and which videos were kept (`shown`).

        Without a meter only `videos` and `shown` are there. Raises ValueError for a phase that was never measured.
        """
        if phase not in self._measured:
            raise ValueError(f"no video was measured in phase {phase!r}, only in {sorted(self._measured)}")
        measured = self._measured[phase]
        figures: dict[str, Any] = {"videos": len(measured), "shown": list(self._kept.get(phase, []))}
        if self._meter is None:
            return figures
        by_domain: dict[str, list[Measurement]] = {}
        for condition, measurement in measured:
            if measurement is not None:
                by_domain.setdefault(condition.domain or "unknown", []).append(measurement)
        everything = [measurement for part in by_domain.values() for measurement in part]
        return figures | _figures(everything) | {"by_domain": {name: _figures(by_domain[name]) for name in by_domain}}

    def _keep(
        self, phase: str, name: str, condition: Condition, frames: np.ndarray, measurement: Measurement | None
    ) -> None:
        folder = self._out / "videos" / phase
        folder.mkdir(parents=True, exist_ok=True)
        scale = max(1, round(SHOWN_SIDE / max(frames.shape[1:3])))
        write_mp4(folder / name, frames, fps=self._fps, scale=scale)
        row: dict[str, Any] = {"file": f"videos/{phase}/{name}", "prompt": condition.prompt, "domain": condition.domain}
        if measurement is not None:
            row |= {"distorted": measurement.distorted, "motion": measurement.motion, "reason": measurement.reason}
        self._kept.setdefault(phase, []).append(row)


def _figures(measurements: list[Measurement]) -> dict[str, Any]:
    distorted = sum(measurement.distorted for measurement in measurements)
    motions = [measurement.motion for measurement in measurements]
    return {
        "videos": len(measurements),
        "distorted": distorted,
        "distortion_rate": distorted / len(measurements),
        "distortion_interval": list(wilson_interval(distorted, len(measurements))),
        "motion": float(np.mean(motions)),
        "motion_interval": list(normal_interval(motions)),
        "reasons": dict(Counter(measurement.reason for measurement in measurements if measurement.distorted)),
    }
