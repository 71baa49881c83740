"""Videos with known answers for the tiny judge: rendered scenes, distortions a generator makes, and mild blemishes.

A pool is a plain set of arrays, so that any source of labelled videos (rendered here, or generated and measured by
the meter) is trained on in the same way. `augment` draws endless variants of a pool; `meetings` draws labelled pairs.

    python -m examples.miniature.judge_data --out drawn.npz --count 14000 --seed 101
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from examples.miniature.meter import measure
from examples.miniature.world import BACKGROUND, FRAMES, SIZE, draw_any, render

SPEED_GAP = 0.4
"""Pixels per frame by which two videos of like distortion must differ for "moves better" to be a fair question."""


@dataclass(frozen=True)
class VideoPool:
    """`videos` uint8 `[n, 9, 32, 32, 3]`; `distorted`, `human` bool `[n]`; `motion` float32 `[n]`, pixels per frame."""

    videos: np.ndarray
    distorted: np.ndarray
    motion: np.ndarray
    human: np.ndarray

    def __len__(self) -> int:
        return len(self.videos)

    def save(self, path: Path) -> None:
        np.savez_compressed(path, videos=self.videos, distorted=self.distorted, motion=self.motion, human=self.human)

    @staticmethod
    def load(path: Path) -> "VideoPool":
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"videos", "distorted", "motion", "human"} - set(arrays.files)
            if missing:
                raise ValueError(f"{path}: arrays {sorted(missing)} are missing; want videos, distorted, motion, human")
            videos = arrays["videos"]
            if videos.dtype != np.uint8 or videos.shape[1:] != (FRAMES, SIZE, SIZE, 3):
                raise ValueError(f"{path}: videos are {videos.dtype} {videos.shape}, want uint8 [n, 9, 32, 32, 3]")
            return VideoPool(
                videos,
                arrays["distorted"].astype(bool),
                arrays["motion"].astype(np.float32),
                arrays["human"].astype(bool),
            )

    def take(self, indices: np.ndarray) -> "VideoPool":
        return VideoPool(self.videos[indices], self.distorted[indices], self.motion[indices], self.human[indices])


def rendered_pool(count: int, *, seed: int, warped_share: float = 0.3, wobbly_share: float = 0.0) -> VideoPool:
    """Half drawn clean, half distorted; `warped_share` of the latter by `warp` in place of the world's own kinds.

    `wobbly_share` of all are then made unsteady, from hardly to badly. Labelled by the meter, as people label what they
    see: a distortion too slight to notice is none.
    """
    rng = np.random.default_rng(seed)
    videos = np.empty((count, FRAMES, SIZE, SIZE, 3), np.uint8)
    distorted, motion, human = np.zeros(count, bool), np.zeros(count, np.float32), np.zeros(count, bool)
    for index in range(count):
        by_warp = index % 2 == 1 and rng.random() < warped_share
        scene = draw_any(rng, index % 2 == 1 and not by_warp)
        video = render(scene)
        videos[index] = warp(video, rng) if by_warp else video
        if rng.random() < wobbly_share:
            videos[index] = wobble(videos[index], rng)
        seen = measure(videos[index], scene.prompt)
        distorted[index], motion[index], human[index] = seen.distorted, seen.motion, scene.domain == "human"
    return VideoPool(videos, distorted, motion, human)


def warp(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a half-trained generator does wrong and the world does not draw: fades, ghosts, bent paths, growth, blur."""
    ahead = video.astype(np.float32) - BACKGROUND
    at = int(rng.integers(1, FRAMES - 2))
    ramp = np.clip((np.arange(FRAMES) - at + 1) / rng.integers(1, 4), 0, 1).astype(np.float32)
    kind = ("fade", "ghost", "bend", "scale", "smear", "dissolve")[int(rng.integers(6))]
    if kind == "fade":
        ahead *= (1 - rng.uniform(0.65, 1.0) * ramp)[:, None, None, None]
        if rng.random() < 0.3:
            ahead = ahead[::-1]
    elif kind == "ghost":
        angle, apart = rng.uniform(0, 2 * np.pi), rng.uniform(6, 12)
        copy = _moved(ahead, np.full((FRAMES, 2), apart) * [np.sin(angle), np.cos(angle)])
        if abs(copy).sum() < 0.7 * abs(ahead).sum():  # left the frame: the other side has room
            copy = _moved(ahead, -np.full((FRAMES, 2), apart) * [np.sin(angle), np.cos(angle)])
        weight = (rng.uniform(0.5, 1.0) * ramp)[:, None, None, None]
        ahead = np.where(abs(copy) * weight > abs(ahead), copy * weight, ahead)
    elif kind == "dissolve":
        angle, apart = rng.uniform(0, 2 * np.pi), rng.uniform(2, 14)
        there = _moved(ahead, np.full((FRAMES, 2), apart) * [np.sin(angle), np.cos(angle)])
        if abs(there).sum() < 0.9 * abs(ahead).sum():
            there = _moved(ahead, -np.full((FRAMES, 2), apart) * [np.sin(angle), np.cos(angle)])
        weight = ramp[:, None, None, None]
        ahead = ahead * (1 - weight) ** rng.uniform(0.5, 2) + there * weight ** rng.uniform(0.5, 2)
    elif kind == "bend":
        angle, apart = rng.uniform(0, 2 * np.pi), rng.uniform(4.5, 9)
        there = _moved(ahead, np.outer(ramp, [np.sin(angle), np.cos(angle)]) * apart)
        back = _moved(ahead, -np.outer(ramp, [np.sin(angle), np.cos(angle)]) * apart)
        ahead = there if abs(there).sum() > abs(back).sum() else back
    elif kind == "scale":
        ratio = rng.uniform(0.45, 0.75) if rng.random() < 0.6 else rng.uniform(1.3, 1.6)
        ahead = _scaled(ahead, 1 + (ratio - 1) * ramp)
    else:
        soft = ahead
        for _ in range(int(rng.integers(4, 9))):
            soft = _blurred(soft)
        weight = ramp[:, None, None, None]
        ahead = ahead * (1 - weight) + soft * weight * rng.uniform(0.5, 0.9)
    return np.clip(np.rint(ahead + BACKGROUND), 0, 255).astype(np.uint8)


def wobble(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a half-trained generator does to all videos, by any amount: wavering paths, breathing sizes, soft shapes."""
    ahead = torch.from_numpy(video.astype(np.float32) - BACKGROUND).permute(0, 3, 1, 2)
    often = lambda share: float(rng.random() < share)  # noqa: E731
    path = _wave(rng, 2) * rng.uniform(0, 3.0) * often(0.6)
    size = _wave(rng, 1) * rng.uniform(0, 0.3) * often(0.6) + _wave(rng, 2) * rng.uniform(0, 0.2) * often(0.5)
    size = size + rng.uniform(-0.2, 0.2, (1, 2)) * often(0.5)
    bends = rng.normal(size=(1, 50)) * rng.uniform(0, 1.5) * often(0.6) + _wave(rng, 50) * rng.uniform(0, 3) * often(
        0.6
    )
    bends = F.interpolate(
        torch.from_numpy(bends.astype(np.float32)).view(FRAMES, 2, 5, 5), (SIZE, SIZE), mode="bicubic"
    )
    weight = ahead.abs().sum(1)
    line, total = torch.arange(SIZE).float(), weight.sum((1, 2)).clamp_min(1)
    centre = torch.stack([(weight.sum(1) * line).sum(1), (weight.sum(2) * line).sum(1)], -1) / total[:, None]
    place = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)[None]
    ratio = torch.from_numpy(np.clip(1 + size, 0.3, 1.8).astype(np.float32))
    middle, shift = centre[:, None, None], torch.from_numpy(path.astype(np.float32))[:, None, None]
    source = middle + (place - shift - middle) / ratio[:, None, None] + bends.permute(0, 2, 3, 1)
    ahead = F.grid_sample(ahead, source / (SIZE - 1) * 2 - 1, align_corners=True).permute(0, 2, 3, 1).numpy()
    for _ in range(int(rng.integers(0, 4) * often(0.5))):
        ahead = _blurred(ahead)
    pale = 1 + _wave(rng, 1) * rng.uniform(0, 0.5) * often(0.3)
    tint = np.exp(rng.normal(0, 0.12, 3)) * rng.uniform(0.9, 1.35)
    ahead = ahead * np.clip(pale, 0, 1.3)[:, :, None, None] * tint
    return np.clip(np.rint(ahead + BACKGROUND), 0, 255).astype(np.uint8)


def _wave(rng: np.random.Generator, columns: int) -> np.ndarray:
    """`[frames, columns]` of unit scale: smooth, jumpy, or a single kick, without a steady trend."""
    kind = int(rng.integers(3))
    steps = rng.normal(size=(FRAMES, columns))
    if kind == 0:
        wave = np.cumsum(steps, 0)
    elif kind == 1:
        wave = steps
    else:
        wave = np.where(np.arange(FRAMES)[:, None] == rng.integers(FRAMES), steps * 2, 0)
    return wave / max(float(np.abs(wave).max()), 1e-6)


def _moved(ahead: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Each frame shifted by whole pixels (rows, columns); what comes in is background."""
    out = np.zeros_like(ahead)
    for index, (dy, dx) in enumerate(np.rint(offsets).astype(int)):
        rows, columns = max(0, dy), max(0, dx)
        part = ahead[index, max(0, -dy) : SIZE - rows, max(0, -dx) : SIZE - columns]
        out[index, rows : rows + part.shape[0], columns : columns + part.shape[1]] = part
    return out


def _scaled(ahead: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Each frame's subject scaled about its own centre, bilinear."""
    out = np.zeros_like(ahead)
    grid = np.arange(SIZE, dtype=np.float32)
    for index, ratio in enumerate(ratios):
        weight = abs(ahead[index]).sum(-1)
        total = max(float(weight.sum()), 1.0)
        cy, cx = float((weight.sum(1) * grid).sum() / total), float((weight.sum(0) * grid).sum() / total)
        frame = ahead[index]
        for axis, centre in ((0, cy), (1, cx)):
            there = np.clip(centre + (grid - centre) / ratio, 0, SIZE - 1.001)
            low = there.astype(int)
            part = (there - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            frame = np.take(frame, low, axis) * (1 - part) + np.take(frame, low + 1, axis) * part
        out[index] = frame
    return out


def _blurred(ahead: np.ndarray) -> np.ndarray:
    padded = np.pad(ahead, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]
    return 0.25 * rows[:, :, :-2] + 0.5 * rows[:, :, 1:-1] + 0.25 * rows[:, :, 2:]


def augment(videos: np.ndarray, rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """Variants with the same answer: mirrored, reversed in time, recoloured, softened, paled, noisy.

    uint8 `[n, 9, 32, 32, 3]` in and out. `strength` 0 keeps only mirroring, reversal and recolouring.
    """
    out = np.empty_like(videos)
    for index, video in enumerate(videos):
        if rng.random() < 0.5:
            video = video[:, :, ::-1]
        if rng.random() < 0.5:
            video = video[::-1]
        ahead = video.astype(np.float32) - BACKGROUND
        if rng.random() < 0.5:
            ahead = ahead[..., rng.permutation(3)]
        if strength and rng.random() < 0.6:
            soft = _blurred(ahead)
            ahead = ahead + (soft - ahead) * (rng.random() * 1.2 * strength)
        if strength and rng.random() < 0.6:
            ahead = ahead * np.float32(1 - strength * rng.uniform(-0.08, 0.3))
        if strength and rng.random() < 0.6:
            ahead = ahead + rng.normal(0, rng.uniform(0.5, 6) * strength, ahead.shape).astype(np.float32)
        ahead = ahead + np.float32(strength * rng.normal(0, 3))
        out[index] = np.clip(np.rint(ahead + BACKGROUND), 0, 255).astype(np.uint8)
    return out


def meetings(
    pool: VideoPool, firsts: int, seconds: int, rng: np.random.Generator, *, clean_share: float = 0.7
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labelled pairs of one domain each: first `[firsts]`, second and label `[firsts, seconds]` (indices; labels 1-4).

    Exactly one distorted: 1 or 2 names the clean one. Both clean (`clean_share` of the rest) or both distorted: 3 or 4
    names the faster one, and their speeds differ by `SPEED_GAP` at least. Half of the pairs are of the first kind,
    and each label comes as often from either order.
    """
    members = {
        (human, bad): np.flatnonzero((pool.human == human) & (pool.distorted == bad))
        for human in (False, True)
        for bad in (False, True)
    }
    domains = [human for human in (True, False) if len(members[human, False]) and len(members[human, True])]
    first, second, label = (np.empty(shape, np.int64) for shape in (firsts, (firsts, seconds), (firsts, seconds)))
    for row in range(firsts):
        human, bad = domains[int(rng.random() * len(domains))], bool(rng.random() < 0.5)
        first[row] = rng.choice(members[human, bad])
        gap = pool.motion - pool.motion[first[row]]
        alike = members[human, bad]
        alike = alike[np.abs(gap[alike]) >= SPEED_GAP]
        share = 2 * (1 - clean_share if bad else clean_share)  # of motion pairs, against an even start
        for column in range(seconds):
            if len(alike) and rng.random() < share / (1 + share):
                faster = alike[gap[alike] > 0]
                slower = alike[gap[alike] < 0]
                group = faster if len(faster) and (not len(slower) or rng.random() < 0.5) else slower
                second[row, column] = rng.choice(group)
                label[row, column] = 4 if gap[second[row, column]] > 0 else 3
            else:
                second[row, column] = rng.choice(members[human, not bad])
                label[row, column] = 2 if bad else 1
    return first, second, label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--wobbly-share", type=float, default=0.0, help="made unsteady, from hardly to badly")
    arguments = parser.parse_args()
    pool = rendered_pool(arguments.count, seed=arguments.seed, wobbly_share=arguments.wobbly_share)
    pool.save(arguments.out)
    print(f"{arguments.out}: {len(pool)} videos, {pool.distorted.mean():.1%} of them distorted")


if __name__ == "__main__":
    main()
