"""The pixel meter: stands for the human annotators, labels what people would label, and evaluates.

The online loop never calls it; its only teacher is the ranker. Exact and deterministic: it finds the subject by its
distance from the known background, follows its area and centre, and names the rule that a video breaks. Whether a video
shows what its prompt asks for is a figure of its own: neither the ranker nor the rules look at it, so this is where a
policy that learns to please them would show it.

    python -m examples.miniature.meter     # false alarms and misses on videos drawn with known truth
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from examples.miniature.world import (
    BACKGROUND,
    COLORS,
    DIRECTIONS,
    DISTORTIONS,
    FRAMES,
    SHAPES,
    SIZE,
    SKIN,
    draw_any,
    render,
    still,
)

FOREGROUND = 42.0
"""A pixel belongs to the subject when a channel is this far from the background (of 255)."""
VANISHED = 0.35
"""A frame whose subject has less than this share of its median area has lost it."""
AREA_CHANGE = {"general": 0.33, "human": 0.42}
"""Largest allowed deviation of the area from its median; a walker's limbs overlap, so it may vary more."""
OFF_LINE = {"general": 1.5, "human": 1.8}
"""Largest allowed distance of the centre from its straight line, pixels."""
SECOND_PART = 0.18
"""A second connected part larger than this share of the median area is a doubled subject."""
SKIN_NEAR = 75
"""A pixel belongs to a head if every channel is this near to the colour of skin (of 255)."""
SMALLEST = 18.0
"""Pixels; a subject smaller than this is no subject at all."""
HEAD_SHARE = 0.45
"""A person's head must keep this share of its median area in every frame."""

FIGURES = {
    "distorted": ("lower", "of videos"),
    "motion": ("higher", "pixels per frame"),
    "obeyed": ("higher", "of videos"),
}
"""What `figures` gives for each video: name -> (which direction is better, unit)."""


@dataclass(frozen=True)
class Measurement:
    """What the meter says of one video.

    `motion`: pixels per frame of the centre. `reason`: which rule called it distorted, or "".
    """

    distorted: bool
    motion: float
    reason: str = ""


def figures(frames: np.ndarray, prompt: str) -> dict[str, Any]:
    """The measurement by name, as `evaluation.meter` gives it: rates, a mean, and texts that are counted."""
    asked = obeyed(frames, prompt)
    another = ", ".join(what for what, right in asked.items() if not right)
    return asdict(measure(frames, prompt)) | {"obeyed": not another, "not as asked": another}


def measure(frames: np.ndarray, prompt: str) -> Measurement:
    """Measure one video: uint8 `[frames, height, width, 3]`. The prompt says whether it shows a person."""
    domain = "human" if "person" in prompt else "general"
    weights = foreground(frames)
    area = weights.sum((1, 2))
    median = float(np.median(area))
    if median < SMALLEST:
        return Measurement(True, 0.0, "no subject")
    present = area > VANISHED * median
    centres = centres_of(weights)
    line, motion = straight_line(centres, present)
    if not present.all():
        return Measurement(True, motion, "vanishes")
    if float(np.abs(area / median - 1).max()) > AREA_CHANGE[domain]:
        return Measurement(True, motion, "changes size")
    if float(np.hypot(*(centres - line).T).max()) > OFF_LINE[domain]:
        return Measurement(True, motion, "leaves its path")
    if max(_second_part(weight > 0.5) for weight in weights) > SECOND_PART * median:
        return Measurement(True, motion, "splits")
    if domain == "human":
        heads = head_pixels(frames)
        if heads.min() < max(4.0, HEAD_SHARE * float(np.median(heads))):
            return Measurement(True, motion, "loses its head")
    return Measurement(False, motion)


def obeyed(frames: np.ndarray, prompt: str) -> dict[str, bool]:
    """Whether most frames show the prompt's object, every frame its colour, and the video its direction.

    The way is the larger component of the straight line's slope.
    """
    words = prompt.split()
    color, subject = words[1], words[2]
    weights = foreground(frames)
    line, _ = straight_line(centres_of(weights), weights.sum((1, 2)) > 0)
    dx, dy = line[-1] - line[0]
    step = (float(np.sign(dx)), 0.0) if abs(dx) > abs(dy) else (0.0, float(np.sign(dy)))
    seen = [subject_of(frame, color) for frame in frames[1::3]]
    return {
        "object": 2 * seen.count(subject) > len(seen),
        "colour": all(color_of(frame) == color for frame in frames),
        "direction": step == DIRECTIONS[words[-1]],
    }


def subject_of(frame: np.ndarray, color: str) -> str | None:
    """A person if there is a head; else the shape that, drawn as large and in the same place, is most like the subject.

    None without a subject.
    """
    if head_pixels(frame) >= 4:
        return "person"
    [weight] = foreground(frame[None])
    if weight.sum() < SMALLEST:
        return None
    unlike: dict[str, float] = {}
    for shape in SHAPES:
        x, y, scale = SIZE / 2, SIZE / 2, 1.0
        for _ in range(2):  # to the subject's own size and place, and once more, as pixels are coarse
            [drawn] = foreground(still(color, shape, x, y, scale)[None])
            scale *= float(np.sqrt(weight.sum() / max(drawn.sum(), 1.0)))
            dx, dy = _centre(weight) - _centre(drawn)
            x, y = x + dx, y + dy
        [drawn] = foreground(still(color, shape, x, y, scale)[None])
        unlike[shape] = float(np.square(drawn - weight).sum())
    return min(unlike, key=lambda shape: unlike[shape])


def head_pixels(frames: np.ndarray) -> np.ndarray:
    """How many pixels of each frame (or of one frame) are as skin is."""
    return (np.abs(frames.astype(np.float32) - SKIN).max(-1) < SKIN_NEAR).sum((-2, -1))


def color_of(frame: np.ndarray) -> str | None:
    """The world's colour nearest to the median of the subject's pixels, a person's head left out; None without any.

    `frame`: uint8 `[height, width, 3]`.
    """
    subject = foreground(frame[None])[0] > 0.9
    subject &= np.abs(frame.astype(np.float32) - SKIN).max(-1) > 90
    if not subject.any():
        return None
    middle = np.median(frame[subject].astype(np.float32), axis=0)
    return min(COLORS, key=lambda name: float(np.square(middle - COLORS[name]).sum()))


def foreground(frames: np.ndarray) -> np.ndarray:
    """Soft membership `[frames, height, width]` in [0, 1]."""
    distance = np.abs(frames.astype(np.float32) - BACKGROUND).max(-1)
    return np.clip((distance - FOREGROUND / 2) / FOREGROUND, 0, 1)


def centres_of(weights: np.ndarray) -> np.ndarray:
    """Centre of gravity `[frames, 2]` (x, y) of the soft membership of each frame, pixels."""
    return np.stack([_centre(weight) for weight in weights])


def _centre(weight: np.ndarray) -> np.ndarray:
    total = max(float(weight.sum()), 1e-6)
    ys, xs = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(xs * weight).sum() / total, (ys * weight).sum() / total])


def straight_line(centres: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, float]:
    """Least-squares straight line over the frames where the subject is there, and its speed in pixels per frame."""
    times = np.arange(len(centres), dtype=np.float64)
    if present.sum() < 2:
        return centres, 0.0
    slope, origin = np.polyfit(times[present], centres[present], 1)
    return origin + times[:, None] * slope, float(np.hypot(*slope))


def _second_part(mask: np.ndarray) -> int:
    """Pixels of the second largest 8-connected part."""
    remaining, sizes = mask.copy(), []
    while remaining.any():
        part = np.zeros_like(mask)
        part[tuple(np.argwhere(remaining)[0])] = True
        while True:
            grown = np.zeros_like(part)
            padded = np.pad(part, 1)
            for dy in range(3):
                for dx in range(3):
                    grown |= padded[dy : dy + part.shape[0], dx : dx + part.shape[1]]
            grown &= remaining
            if (grown == part).all():
                break
            part = grown
        sizes.append(int(part.sum()))
        remaining &= ~part
    return sorted(sizes)[-2] if len(sizes) > 1 else 0


def check(count: int = 600, seed: int = 77) -> dict[str, float]:
    """Shares of drawn videos that the meter calls distorted: of the clean ones and of each kind of distortion."""
    rng = np.random.default_rng(seed)
    calls: dict[str, list[bool]] = {"clean general": [], "clean human": []} | {kind: [] for kind in DISTORTIONS}
    errors, disobeyed = [], []
    for index in range(count):
        scene = draw_any(rng, distorted=index % 2 == 1)
        video = render(scene)
        found = measure(video, scene.prompt)
        calls[scene.distortion or f"clean {scene.domain}"].append(found.distorted)
        if scene.distortion is None:
            errors.append(abs(found.motion - scene.speed))
            disobeyed.append(not all(obeyed(video, scene.prompt).values()))
    shares = {name: float(np.mean(flags)) for name, flags in calls.items()}
    return shares | {
        "videos": float(count),
        "clean, called disobedient": float(np.mean(disobeyed)),
        "motion error, px per frame": float(np.mean(errors)),
        "frames": float(FRAMES),
    }


if __name__ == "__main__":
    print(json.dumps(check(), indent=2))
