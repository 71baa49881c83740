"""Rebuild the miniature's weights with one command, in the order in which they were made, and write their manifest.

    python -m examples.miniature.build                   # everything, into build/; about 3 hours on two idle cores
    python -m examples.miniature.build --manifest-only   # what lies in the repository, with hashes

Nothing is overwritten: look at the figures, then move `build/bundle` and `build/judge` to `examples/miniature/weights`.
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
STEPS: dict[str, list[str]] = {
    "VAE": ["train_vae", "--out", "build/vae", "--steps", "900", "--seed", "1"],
    "transformer, first part": [
        *("train_bundle", "--vae", "build/vae", "--out", "build/first/bundle", "--cache", "build/latents.pt"),
        *("--seed", "2", "--steps", "1500", "--scenes", "3000", "--distorted-share", "0.35", "--rate", "2e-3"),
    ],
    "transformer, second part": [
        *("train_bundle", "--vae", "build/vae", "--out", "build/second/bundle", "--cache", "build/latents.pt"),
        *("--init", "build/first/bundle", "--evaluate-every", "400"),
        *("--seed", "3", "--steps", "2400", "--scenes", "3000", "--distorted-share", "0.15", "--rate", "1.5e-3"),
    ],
    "transformer, third part": [
        *("train_bundle", "--vae", "build/vae", "--out", "build/third/bundle", "--cache", "build/latents.pt"),
        *("--init", "build/second/bundle", "--evaluate-every", "650"),
        *("--seed", "4", "--steps", "1300", "--scenes", "3000", "--distorted-share", "0.1", "--rate", "1e-3"),
    ],
    "transformer, fourth part": [
        *("train_bundle", "--vae", "build/vae", "--out", "build/bundle", "--cache", "build/more_latents.pt"),
        *("--init", "build/third/bundle", "--evaluate-every", "1000", "--muon", "--compile"),
        *("--seed", "5", "--steps", "5000", "--scenes", "6000", "--distorted-share", "0.2", "--rate", "2e-3"),
    ],
    "judge, on drawn videos": ["train_judge", "--out", "build/first/judge"],
    "videos of an early bundle": [
        *("label_generated", "--bundle", "build/second/bundle", "--out", "build/early.npz", "--count", "512"),
    ],
    "judge, on those": [
        *("train_judge", "--init", "build/first/judge", "--extra", "build/early.npz", "--out", "build/second/judge"),
        *("--see-steps", "0", "--compare-steps", "0", "--whole-steps", "400"),
    ],
    "videos of the bundle, not quite done": [
        *("label_generated", "--bundle", "build/bundle-4000", "--out", "build/late.npz", "--count", "1024"),
    ],
    "more of them": [
        *("label_generated", "--bundle", "build/bundle-4000", "--out", "build/later.npz", "--count", "1024"),
        *("--first-seed", "3000000"),
    ],
    "videos of the bundle": [
        *("label_generated", "--bundle", "build/bundle", "--out", "build/last.npz", "--count", "1024"),
        *("--first-seed", "2000000"),
    ],
    "judge, on all of them": [
        *("train_judge", "--init", "build/second/judge", "--out", "build/third/judge"),
        *("--extra", "build/late.npz", "build/later.npz", "build/last.npz"),
        *("--see-steps", "0", "--compare-steps", "0", "--whole-steps", "600"),
    ],
    "people of the bundle": [
        *("label_generated", "--bundle", "build/bundle", "--out", "build/people.npz", "--count", "2048"),
        *("--first-seed", "4000000", "--domain", "human"),
    ],
    "shapes of the bundle": [
        *("label_generated", "--bundle", "build/bundle", "--out", "build/shapes.npz", "--count", "1536"),
        *("--first-seed", "5000000", "--domain", "general"),
    ],
    "judge, on those too, longer": [
        *("train_judge", "--init", "build/third/judge", "--out", "build/judge", "--extra-share", "0.7"),
        *("--extra", "build/late.npz", "build/later.npz", "build/last.npz", "build/people.npz", "build/shapes.npz"),
        *("--see-steps", "0", "--compare-steps", "0", "--whole-steps", "1000", "--whole-rate", "3e-4"),
    ],
}


def manifest() -> dict[str, object]:
    """What is in the repository: the commands that made it, the figures they printed, every weight file's hash."""
    files = sorted(WEIGHTS.rglob("*.safetensors"))
    return {
        "commands": {
            name: " ".join(["python", "-m", f"examples.miniature.{c[0]}", *c[1:]]) for name, c in STEPS.items()
        },
        "bundle": json.loads((WEIGHTS / "bundle" / "training.json").read_text()),
        "judge": "weights/judge/training.json",
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
        for name, (module, *arguments) in STEPS.items():
            print(f"--- {name}", flush=True)
            subprocess.run([sys.executable, "-m", f"examples.miniature.{module}", *arguments], check=True)
        print("built; the manifest below is of the weights in the repository")
    (WEIGHTS / "manifest.json").write_text(json.dumps(manifest(), indent=2) + "\n")
    print(WEIGHTS / "manifest.json")


if __name__ == "__main__":
    main()
