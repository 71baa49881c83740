"""How often the tiny judge is right on held-out pairs, by kind and domain, in both orders."""

import numpy as np
import torch

from examples.miniature.judge_data import VideoPool, meetings
from examples.miniature.judge_forward import Judge, patches


@torch.no_grad()
def evaluate(judge: Judge, pool: VideoPool, *, pairs: int, seed: int) -> dict[str, float]:
    """Accuracies over both orders (`label`: of four; `chosen`: of the two videos), and how the two orders agree."""
    rng = np.random.default_rng(seed)
    looks = torch.cat([judge.look(patches(pool.videos[start : start + 200])) for start in range(0, len(pool), 200)])
    first, second, label = (part.reshape(-1) for part in _pairs(pool, pairs, rng))
    human = torch.from_numpy(pool.human)[first]
    forth, back = [], []
    for start in range(0, len(first), 250):
        rows = slice(start, start + 250)
        for answers, one, two in ((forth, first, second), (back, second, first)):
            logits = judge(looks[one[rows]], looks[two[rows]][:, None], human[rows]).logits[:, 0]
            answers.append(logits.softmax(-1)[:, judge.labels])
    one, two = torch.cat(forth).numpy(), torch.cat(back).numpy()[:, [1, 0, 3, 2]]
    both = (one + two) / 2
    said = both.argmax(-1) + 1
    a_better = [part[:, [0, 2]].sum(-1) >= part[:, [1, 3]].sum(-1) for part in (one, two, both)]
    truth_a, right = label % 2 == 1, said == label
    chosen = a_better[2] == truth_a
    agreed = a_better[0] == a_better[1]
    figures = {
        "agreement": agreed.mean(),
        "first_shown": (a_better[0].mean() + 1 - a_better[1].mean()) / 2,
        "label_mass": np.minimum(one.sum(-1), two.sum(-1)).mean(),
        "chosen_where_agreed": chosen[agreed].mean(),
    }
    bad = pool.distorted
    moves = label > 2
    kinds = {"distortion": ~moves, "motion_clean": moves & ~bad[first], "motion_distorted": moves & bad[first]}
    for kind, rows in kinds.items():
        for domain, members in (("general", ~pool.human[first]), ("human", pool.human[first])):
            if (rows & members).any():
                figures[f"{kind}/{domain}/label"] = right[rows & members].mean()
                figures[f"{kind}/{domain}/chosen"] = chosen[rows & members].mean()
    for number in (1, 2, 3, 4):
        figures[f"recall/label_{number}"] = right[label == number].mean()
    return {name: round(float(value), 4) for name, value in figures.items()}


def _pairs(pool: VideoPool, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, second, label = meetings(pool, count, 1, rng)
    return first, second[:, 0], label[:, 0]
