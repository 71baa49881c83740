"""Plain facts of the small world's videos, computed from the pixels: what the tiny judge's pretraining asks for."""

import numpy as np
import torch

from examples.miniature.meter import AREA_CHANGE, FOREGROUND, HEAD_SHARE, OFF_LINE
from examples.miniature.world import BACKGROUND, SIZE

SEEN = 50
"""Of each temporal patch: `facts_of`."""

FACTS = ("larger", "smaller", "off its path", "speed", "lost head", "unsteady")
"""Of each whole video: `watched_facts`."""


def facts_of(videos: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each slice's two frames: centre, area, spread, brightness, peak, the head, mass in 4x4 cells; their weights.

    `[n, slices, SEEN]` both; empty places have no weight.
    """
    videos = np.concatenate([videos, videos[:, -1:]], 1)
    ahead, there, area, centre = _subject(videos)
    head, skull = _heads(videos)
    rows, columns, safe = there.sum(3), there.sum(2), np.maximum(area, 4)
    grid = np.arange(SIZE, dtype=np.float32)
    cy, cx = centre[..., 0], centre[..., 1]
    spread = (rows * (grid - cy[..., None]) ** 2).sum(2) + (columns * (grid - cx[..., None]) ** 2).sum(2)
    cells = there.reshape(*there.shape[:2], 4, 8, 4, 8).sum((3, 5)).reshape(*there.shape[:2], 16) / 16
    plain = [(cy - 16) / 5, (cx - 16) / 5, area / 20 - 2, np.sqrt(spread / safe) - 3.5, ahead.mean((2, 3)) / 5 - 1]
    plain += [ahead.max((2, 3)) / 75 - 2, head / 6 - 1, (skull[..., 0] - 16) / 5, (skull[..., 1] - 16) / 5]
    values = np.concatenate([np.stack(plain, -1), cells], -1).astype(np.float32)
    weights = np.full_like(values, 1.0)
    weights[..., 9:] = 0.3
    weights[..., :2] = 4.0 * (area > 4)[..., None]
    weights[..., 2] = 3.0
    weights[..., 3] = area > 4
    weights[..., 6] = 3.0
    weights[..., 7:9] = 1.0 * (head > 2)[..., None]
    shape = (len(videos), -1, SEEN)
    return torch.from_numpy(values).reshape(shape), torch.from_numpy(weights).reshape(shape)


def _subject(videos: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distance from the background and membership `[n, frames, h, w]`, area `[n, frames]`, centre `[n, frames, 2]`."""
    ahead = np.maximum.reduce(np.moveaxis(np.abs(videos.astype(np.float32) - BACKGROUND), -1, 0))
    there = np.clip((ahead - FOREGROUND / 2) / FOREGROUND, 0, 1)
    return ahead, there, there.sum((2, 3)), _centre(there)


def _heads(videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area `[n, frames]` and centre `[n, frames, 2]` of what is nearly white, as nothing but a head is."""
    white = np.clip((np.minimum.reduce(np.moveaxis(videos, -1, 0)).astype(np.float32) - 110) / 80, 0, 1)
    return white.sum((2, 3)), _centre(white)


def _centre(there: np.ndarray) -> np.ndarray:
    area, grid = there.sum((2, 3)), np.arange(SIZE, dtype=np.float32)
    centre = np.stack([(there.sum(3) * grid).sum(2), (there.sum(2) * grid).sum(2)], -1)
    return np.where((area > 4)[..., None], centre / np.maximum(area, 4)[..., None], 16)


def watched_facts(videos: np.ndarray, human: np.ndarray) -> torch.Tensor:
    """Of whole videos `[n, FACTS]`: how far the area strays from its median, up and down, how far the centre leaves
    its straight line, its speed, how much of its head a person loses, and the largest of these against what the eye
    tolerates; each compressed to about one. `human` `[n]`."""
    _, _, area, centre = _subject(videos)
    share = area / np.maximum(np.median(area, 1, keepdims=True), 4)
    known = np.clip(share / 0.35, 0, 1)[..., None]
    times = np.arange(videos.shape[1], dtype=np.float32)[None, :, None]
    total = known.sum(1, keepdims=True) + 1e-3
    late, place = (
        times - (known * times).sum(1, keepdims=True) / total,
        centre - (known * centre).sum(1, keepdims=True) / total,
    )
    slope = (known * late * place).sum(1, keepdims=True) / ((known * late**2).sum(1, keepdims=True) + 1e-3)
    off = np.hypot(*np.moveaxis(known * (place - slope * late), -1, 0)).max(1)
    head, _ = _heads(videos)
    lost = np.where(human, 1 - head.min(1) / np.maximum(np.median(head, 1), 4), 0)
    up, down = share.max(1) - 1, 1 - share.min(1)
    allowed, astray = (np.where(human, limit["human"], limit["general"]) for limit in (AREA_CHANGE, OFF_LINE))
    worst = np.max([up / allowed, down / allowed, off / astray, lost / (1 - HEAD_SHARE)], 0)
    facts = [np.minimum(up, 1.5), down, np.log1p(off) - 0.7, np.hypot(*slope[:, 0].T) - 1.2, lost]
    facts.append(2 * np.log(np.clip(worst, 0.3, 3)))
    return torch.from_numpy(np.stack(facts, -1).astype(np.float32))
