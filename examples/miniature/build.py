"""Rebuild the miniature's weights with one command, in the order in which they were made, and write their manifest.

    python -m examples.miniature.build                   # everything, into build/; some 4 hours on two cores
    python -m examples.miniature.build --manifest-only   # what lies in the repository, with hashes

Nothing is overwritten: look at the figures, then move `build/bundle`, `framed_bundle`, `reward` and `judge` to
`examples/miniature/weights`, and the two domains' folders of `build/ranker` to `judge_adapters` there.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from examples.miniature.meter import check

WEIGHTS = Path(__file__).parent / "weights"
BUILD = Path("build")
STEPS: dict[str, str] = {
    "VAE": "examples.miniature.train_vae --out build/vae --steps 900 --seed 1",
    "transformer, first part": (
        "examples.miniature.train_bundle --vae build/vae --out build/first/bundle --cache build/latents.pt --seed "
        "2 --steps 1500 --scenes 3000 --distorted-share 0.35 --rate 2e-3"
    ),
    "transformer, second part": (
        "examples.miniature.train_bundle --vae build/vae --out build/second/bundle --cache build/latents.pt "
        "--init build/first/bundle --evaluate-every 400 --seed 3 --steps 2400 --scenes 3000 --distorted-share "
        "0.15 --rate 1.5e-3"
    ),
    "transformer, third part": (
        "examples.miniature.train_bundle --vae build/vae --out build/third/bundle --cache build/latents.pt --init "
        "build/second/bundle --evaluate-every 650 --seed 4 --steps 1300 --scenes 3000 --distorted-share 0.1 "
        "--rate 1e-3"
    ),
    "transformer, fourth part": (
        "examples.miniature.train_bundle --vae build/vae --out build/bundle --cache build/more_latents.pt --init "
        "build/third/bundle --evaluate-every 1000 --muon --compile --seed 5 --steps 5000 --scenes 6000 "
        "--distorted-share 0.2 --rate 2e-3"
    ),
    "image-to-video bundle with two experts": (
        "examples.miniature.train_framed --base build/bundle --out build/framed_bundle --cache build/framed.pt "
        "--steps 1000 --scenes 2500 --distorted-share 0.65"
    ),
    "image-text reward": "examples.miniature.train_reward --bundle build/bundle --out build/reward",
    "people of the bundle": (
        "examples.miniature.label_generated --bundle build/bundle --out build/people.npz --count 2048 "
        "--first-seed 4000000 --domain human"
    ),
    "shapes of the bundle": (
        "examples.miniature.label_generated --bundle build/bundle --out build/shapes.npz --count 1536 "
        "--first-seed 5000000 --domain general"
    ),
    "more people of the bundle": (
        "examples.miniature.label_generated --bundle build/bundle --out build/more_people.npz --count 2560 "
        "--first-seed 6000000 --domain human"
    ),
    "more shapes of the bundle": (
        "examples.miniature.label_generated --bundle build/bundle --out build/more_shapes.npz --count 2560 "
        "--first-seed 7000000 --domain general"
    ),
    "videos of the bundle, held out": (
        "examples.miniature.label_generated --bundle build/bundle --out build/generated.npz --count 640 "
        "--first-seed 8000000"
    ),
    "drawn videos": "examples.miniature.judge_data --out build/drawn.npz --count 14000 --seed 101",
    "unsteady ones": (
        "examples.miniature.judge_data --out build/unsteady.npz --count 14000 --seed 102 --wobbly-share 0.85"
    ),
    "judge, before it has judged": (
        "examples.miniature.pretrain_judge --out build/judge --seed 100 --pool build/drawn.npz build/unsteady.npz "
        "--extra build/people.npz build/shapes.npz build/more_people.npz build/more_shapes.npz --held-out "
        "build/generated.npz"
    ),
    "pairs to teach it": (
        "examples.miniature.judge_pairs build/pairs --pairs 24000 --seed 11 --pool build/drawn.npz --pool "
        "build/unsteady.npz --pool build/people.npz --pool build/shapes.npz --pool build/more_people.npz --pool "
        "build/more_shapes.npz"
    ),
    "its adapters": "cluster.cli ranker train configs/ranker/miniature-train.yaml path=build/judge",
    "pairs held out": "examples.miniature.judge_pairs build/held_out --pairs 2000 --seed 6",
    "its scores": (
        "cluster.cli ranker score configs/ranker/miniature-score.yaml ranker.path=build/judge "
        "ranker.adapters.human=build/ranker/human ranker.adapters.general=build/ranker/general"
    ),
}
"""What each step runs, after `python -m`."""


def manifest() -> dict[str, object]:
    """What is in the repository: the commands that made it, the figures they printed, every weight file's hash."""
    files = sorted(WEIGHTS.rglob("*.safetensors"))
    return {
        "commands": {name: f"python -m {command}" for name, command in STEPS.items()},
        "bundle": json.loads((WEIGHTS / "bundle" / "training.json").read_text()),
        "framed_bundle": json.loads((WEIGHTS / "framed_bundle" / "training.json").read_text()),
        "reward": json.loads((WEIGHTS / "reward" / "training.json").read_text()),
        "judge": "weights/judge/training.json",
        "judge_adapters": "docs/results/miniature_ranker/findings.md",
        "meter": check(),
        "megabytes": round(sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()) / 1e6, 2),
        "sha256": {str(f.relative_to(WEIGHTS)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
    }


def main() -> None:
    """Run the steps one after the other, stopping at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest-only", action="store_true")
    if not parser.parse_args().manifest_only:
        BUILD.mkdir(exist_ok=True)
        for name, command in STEPS.items():
            print(f"--- {name}", flush=True)
            subprocess.run([sys.executable, "-m", *command.split()], check=True)
        print("built; the manifest below is of the weights in the repository")
    (WEIGHTS / "manifest.json").write_text(json.dumps(manifest(), indent=2) + "\n")
    print(WEIGHTS / "manifest.json")


if __name__ == "__main__":
    main()
