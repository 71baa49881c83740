"""A run folder made of figures that can be worked out by hand, for the tests of summary and report."""

import json
from pathlib import Path
from typing import Any

from buffers.labels import DROP_COUNTS, POSITION_COUNTS
from cluster.run_folder import RunFolder
from configs.schema import RunConfig

PROMPT = 'a <script>alert("x")</script> & a "blue" square'

# Wilson's interval by hand, z = 1.959964: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
WILSON = {
    (8, 256): (0.015918, 0.060442),
    (55, 256): (0.168944, 0.269175),
    (40, 192): (0.156889, 0.271220),
    (15, 64): (0.147499, 0.351333),
}

ABOUT = {
    "distorted": {"better": "lower", "unit": "of videos"},
    "motion": {"better": "higher", "unit": "pixels per frame"},
}


def fake_run(path: Path, *, partial: bool = False, meter: bool = True) -> RunFolder:
    """Steps 1 and 2 of 2 in a loop from second 100 to second 200; partial: step 1 alone, killed before the end."""
    config = RunConfig.model_validate(
        {
            "name": "by-hand",
            "out": str(path),
            "seed": 7,
            "model": {"path": "some/where/bundle", "dtype": "float32"},
            "prompts": {"train": "train.txt"},
            "ranker": {"path": "some/where/ranker", "frames": 9},
            "evaluation": {"prompts": "held_out.txt", "seed": 90_000},
            "sampling": {"num_frames": 9, "height": 32, "width": 32, "steps": 12},
            "stages": [{"kind": "online", "steps": 2}],
        }
    )
    run = RunFolder(path)
    run.begin(config)
    rows = [
        {"time": 40, "kind": "phase", "name": "start", "seconds": 40.0},
        evaluation(run, "before", time=90, distorted=55, motion=1.2, meter=meter),
        {"time": 100, "kind": "phase", "name": "evaluation before", "seconds": 60.0},
        roles("generator", 0, time=100, busy=50, waiting=0),
        # It was up at second 50 already: 90 s of waiting, of which 6 s lie in the loop.
        step(1, time=110, wait_s=90.0, step_s=4.0, loss=0.7),
        roles("generator", 0, time=150, busy=95, waiting=5),
        roles("ranker", 0, time=150, busy=10, waiting=30),
        verdicts(time=150, judged=20, label_1=20, agreed=16, disagreed_human_1=4, added=16, dropped_disagreement=4),
    ]
    if not partial:
        rows += [
            step(2, time=120, wait_s=4.0, step_s=6.0, loss=0.5),
            roles("generator", 0, time=200, busy=130, waiting=20),
            roles("ranker", 0, time=200, busy=20, waiting=70),
            verdicts(
                time=199,
                judged=40,
                label_1=30,
                label_3=10,
                agreed=30,
                disagreed_human_1=6,
                disagreed_general_3=4,
                first_human_1=1,
                added=28,
                dropped_disagreement=10,
            ),
            {"time": 200, "kind": "phase", "name": "online", "seconds": 100.0},
            evaluation(run, "after", time=954, distorted=8, motion=1.14, meter=meter),
            {"time": 954, "kind": "phase", "name": "evaluation after", "seconds": 754.0},
        ]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def evaluation(
    run: RunFolder, phase: str, *, time: float, distorted: int, motion: float, meter: bool
) -> dict[str, Any]:
    kept = []
    for name, bad in (("000-a", phase == "before"), ("000-b", phase == "after"), ("001-a", False)):
        file = run.videos / phase / f"{name}.mp4"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(f"video {phase} {name}".encode())
        entry: dict[str, Any] = {"file": f"videos/{phase}/{name}.mp4", "prompt": PROMPT, "domain": "general"}
        measured = {"distorted": bad, "motion": 1.25, "reason": "splits" if bad else ""}
        kept.append(entry | ({"figures": measured} if meter else {}))
    row: dict[str, Any] = {"time": time, "kind": "evaluation", "phase": phase, "videos": 256, "kept": kept}
    row |= {"about": ABOUT if meter else {}, "measured": of_videos(distorted, motion) if meter else {}}
    return row


def of_videos(distorted: int, motion: float) -> dict[str, list[Any]]:
    """192 general videos and 64 human ones, every one of its own prompt; the first of each domain are distorted.

    A fifth of them is human before (55: 40 and 15), a quarter after (8: 6 and 2). Motion is 0.1 less and more in turn.
    """
    human = {55: 15, 8: 2}[distorted]
    bad = [*(place < distorted - human for place in range(192)), *(place < human for place in range(64))]
    return {
        "prompt": [f"prompt {place}" for place in range(256)],
        "domain": ["general"] * 192 + ["human"] * 64,
        "distorted": bad,
        "motion": [motion + 0.1 * (-1) ** place for place in range(256)],
        "reason": ["splits" if each else "" for each in bad],
    }


def step(number: int, *, time: float, wait_s: float, step_s: float, loss: float) -> dict[str, Any]:
    learned: dict[str, Any] = {
        "loss": loss,
        "implicit_accuracy": 0.75,
        "margin": 0.2,
        "chosen_reward": 0.1,
        "rejected_reward": -0.1,
    }
    learned |= {"drift": 1e-4, "grad_norm": 2.0, "stage": 0, "staleness_mean": 0.5, "staleness_max": 1.0}
    learned["levels"] = [
        {"level": level, "pairs": pairs, "implicit_accuracy": accuracy, "drift": 1e-4}
        for level, pairs, accuracy in ((4, 16, 0.5), (9, 64, 0.8))
    ]
    learned["window"] = [
        {"timestep": timestep, "level": level, "expert": "transformer", "grad_norm": norm}
        for timestep, level, norm in ((430.0, 4, 0.5), (960.0, 9, 1.5), (930.0, 9, 2.5))
    ]
    row = {"time": time, "kind": "step", "step": number, "version": number}
    return {**row, **learned, "wait_s": wait_s, "step_s": step_s}


def roles(role: str, index: int, *, time: float, busy: float, waiting: float) -> dict[str, Any]:
    row = {"time": time, "kind": "roles", "role": role, "index": index, "counts": {}}
    return {**row, "busy_s": float(busy), "waiting_s": float(waiting)}


def verdicts(*, time: float, **counts: int) -> dict[str, Any]:
    keys = [*(f"label_{label}" for label in (1, 2, 3, 4)), "judged", "agreed", "added"]
    keys += [*POSITION_COUNTS, *DROP_COUNTS]
    keys += ["duplicate", "late", "stale", "taken"]
    return {"time": time, "kind": "verdicts", **dict.fromkeys(keys, 0), **counts}
