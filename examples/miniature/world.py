"""The small world: moving shapes (general) and walking stick figures (human), drawn exactly, clean or distorted.

A scene is a handful of numbers drawn from a seed; `render` turns it into pixels. Nothing here learns.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from buffers.records import Domain

FRAMES, SIZE, FPS = 9, 32, 8.0
SUPERSAMPLE = 3
BACKGROUND = np.array([40, 42, 48], np.float32)
SKIN = np.array([240, 240, 235], np.float32)
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 60, 55),
    "green": (60, 190, 80),
    "blue": (70, 110, 235),
    "yellow": (235, 205, 60),
    "purple": (175, 80, 215),
    "orange": (240, 140, 40),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Unit steps (x, y); y grows downwards."""
SPEEDS = (0.5, 1.9)
"""Slowest and fastest, in pixels per frame. The prompt does not say it, so two candidates may differ in it."""

Distortion = Literal["vanish", "teleport", "melt", "split"]
DISTORTIONS: tuple[Distortion, ...] = ("vanish", "teleport", "melt", "split")


@dataclass(frozen=True)
class Scene:
    """`x`, `y`: the subject's centre in the first frame, pixels. `severity` in [0, 1] scales the distortion."""

    color: str
    subject: str
    direction: str
    x: float
    y: float
    speed: float
    phase: float
    distortion: Distortion | None = None
    at: int = 4
    severity: float = 1.0
    angle: float = 0.0

    @property
    def domain(self) -> Domain:
        return "human" if self.subject == "person" else "general"

    @property
    def prompt(self) -> str:
        article = "an" if self.color[0] in "aeiou" else "a"
        if self.subject == "person":
            return f"{article} {self.color} person walking {self.direction}"
        return f"{article} {self.color} {self.subject} moving {self.direction}"


def all_prompts() -> list[tuple[Domain, str]]:
    """Every prompt of the world with its domain: 6 colours x (3 shapes x 4 directions + a person x 4)."""
    return [
        ("human" if subject == "person" else "general", draw(color, subject, direction).prompt)
        for color in COLORS
        for subject in (*SHAPES, "person")
        for direction in DIRECTIONS
    ]


def draw(
    color: str, subject: str, direction: str, rng: np.random.Generator | None = None, distorted: bool = False
) -> Scene:
    """A scene of that content with the rest drawn from `rng`; the subject stays inside the frame throughout."""
    rng = rng or np.random.default_rng(0)
    speed = float(rng.uniform(*SPEEDS))
    travel, margin = speed * (FRAMES - 1), 8.0 if subject == "person" else 6.0
    dx, dy = DIRECTIONS[direction]

    def start(step: int) -> float:
        low, high = margin, SIZE - margin
        low, high = (low, high - travel) if step > 0 else (low + travel, high) if step < 0 else (low, high)
        middle = (low + high) / 2
        return float(rng.uniform(low, high)) if high > low else middle

    scene = Scene(color, subject, direction, start(dx), start(dy), speed, float(rng.uniform(0, 2 * np.pi)))
    if not distorted:
        return scene
    return replace(
        scene,
        distortion=DISTORTIONS[int(rng.integers(len(DISTORTIONS)))],
        at=int(rng.integers(2, FRAMES - 2)),
        severity=float(rng.uniform(0.5, 1.0)),
        angle=float(rng.uniform(0, 2 * np.pi)),
    )


def draw_any(rng: np.random.Generator, distorted: bool = False) -> Scene:
    """A scene of any content."""
    subjects = (*SHAPES, "person", "person")
    pick = lambda names: names[int(rng.integers(len(names)))]  # noqa: E731
    return draw(pick(tuple(COLORS)), pick(subjects), pick(tuple(DIRECTIONS)), rng, distorted)


def render(scene: Scene, *, frames: int = FRAMES, pace: float = 1.0) -> np.ndarray:
    """uint8 `[frames, height, width, 3]`, anti-aliased by supersampling. `pace`: of time, from frame to frame."""
    return np.stack([_frame(scene, pace * index) for index in range(frames)])


def still(color: str, shape: str, x: float, y: float, scale: float) -> np.ndarray:
    """One frame, uint8 `[height, width, 3]`, of a shape with its centre at (x, y), `scale` times as large as usual."""
    canvas, xs, ys = _canvas()
    _shape(canvas, xs, ys, draw(color, shape, "left"), x, y, scale, 0)
    return _shrink(canvas)


def _canvas() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The background, supersampled, and the place (x, y) of each of its pixels."""
    n = SIZE * SUPERSAMPLE
    grid = (np.arange(n, dtype=np.float32) + 0.5) / SUPERSAMPLE
    xs, ys = np.meshgrid(grid, grid)
    return np.broadcast_to(BACKGROUND, (n, n, 3)).copy(), xs, ys


def _frame(scene: Scene, index: float) -> np.ndarray:
    canvas, xs, ys = _canvas()
    dx, dy = DIRECTIONS[scene.direction]
    cx, cy = scene.x + dx * scene.speed * index, scene.y + dy * scene.speed * index
    scale = 1.0
    after = index >= scene.at
    if scene.distortion == "vanish" and scene.at <= index < scene.at + 2 + round(scene.severity):
        return _shrink(canvas)
    if scene.distortion == "teleport" and after:
        jump = 5.0 + 4.0 * scene.severity
        cx, cy = cx + jump * np.cos(scene.angle), cy + jump * np.sin(scene.angle)
        cx, cy = float(np.clip(cx, 4, SIZE - 4)), float(np.clip(cy, 4, SIZE - 4))
    if scene.distortion == "melt" and after:
        shrink = 0.25 + 0.2 * scene.severity
        scale = 1.0 - shrink * min(1.0, (index - scene.at + 1) / 2)
    draw_subject = _person if scene.subject == "person" else _shape
    draw_subject(canvas, xs, ys, scene, cx, cy, scale, index)
    if scene.distortion == "split" and after:
        apart = 8.0 + 3.0 * scene.severity
        ox, oy = cx + apart * np.cos(scene.angle), cy + apart * np.sin(scene.angle)
        draw_subject(canvas, xs, ys, scene, _inside(ox, cx), _inside(oy, cy), 0.8, index)
    return _shrink(canvas)


def _inside(there: float, centre: float) -> float:
    """Mirrors a copy that would leave the frame to the other side of the subject."""
    return there if 4 <= there <= SIZE - 4 else 2 * centre - there


def _shrink(canvas: np.ndarray) -> np.ndarray:
    small = canvas.reshape(SIZE, SUPERSAMPLE, SIZE, SUPERSAMPLE, 3).mean((1, 3))
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def _shape(
    canvas: np.ndarray, xs: np.ndarray, ys: np.ndarray, scene: Scene, cx: float, cy: float, scale: float, index: float
) -> None:
    u, v = (xs - cx) / scale, (ys - cy) / scale
    if scene.subject == "circle":
        inside = u**2 + v**2 <= 4.3**2
    elif scene.subject == "square":
        inside = (abs(u) <= 3.8) & (abs(v) <= 3.8)
    else:
        inside = (v <= 3.8) & (v >= -4.6) & (abs(u) <= (v + 4.6) * 0.62)
    canvas[inside] = COLORS[scene.color]


def _person(
    canvas: np.ndarray, xs: np.ndarray, ys: np.ndarray, scene: Scene, cx: float, cy: float, scale: float, index: float
) -> None:
    u, v = (xs - cx) / scale, (ys - cy) / scale
    swing = 0.45 * np.sin(scene.phase + 1.3 * index)

    def limb(x0: float, y0: float, x1: float, y1: float, width: float) -> None:
        t = np.clip(((u - x0) * (x1 - x0) + (v - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1)
        near = (u - x0 - t * (x1 - x0)) ** 2 + (v - y0 - t * (y1 - y0)) ** 2 <= width**2
        canvas[near] = COLORS[scene.color]

    for sign in (-1, 1):
        limb(0, 1.5, 3.2 * np.sin(0.3 * sign + swing * sign), 1.5 + 5.2 * np.cos(swing), 0.95)
        limb(0, -2.0, 3.6 * np.sin(0.75 * sign - 0.6 * swing), -2.0 + 3.6 * np.cos(0.8 + 0.3 * swing), 0.8)
    limb(0, -2.4, 0, 1.8, 1.35)
    canvas[u**2 + (v + 5.0) ** 2 <= 2.2**2] = SKIN
