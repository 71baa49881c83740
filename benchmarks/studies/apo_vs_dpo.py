"""Does anchoring the timesteps on the inference trajectory beat uniform timesteps, at equal compute and on equal pairs?

    python -m benchmarks.studies.apo_vs_dpo                  # whatever is not done yet; 4 hours on two cores
    python -m benchmarks.studies.apo_vs_dpo --report-only    # tables and plots from the runs that are there

Every arm learns from the same pairs, from the same base, for the same number of transformer rows; what differs is which
timesteps its optimizer steps are taken at. The pairs are the bundle's own videos, one distorted and one clean by the
miniature's meter, which stands for people here as it does everywhere in the miniature: this is the offline stage with
human labels, so that a ranker's mistakes do not come in between. Beta and learning rate are chosen for APO and for
uniform Diffusion-DPO by one rule, on seeds, prompts and noises that the comparison never uses; the ablations use APO's.

A finished run is one line of `docs/results/apo_vs_dpo/runs.jsonl`: stop whenever you like, and go on with the same
command.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.studies.apo_vs_dpo_report import write_report
from buffers.records import Batch, Condition, EncodedCondition, Pair
from buffers.tensors import encode
from configs.load import load_config
from configs.sections import LearnerConfig, TimestepsConfig
from examples.miniature.meter import measure, obeyed
from examples.miniature.prompts.make import split
from learner.learner import Learner
from learner.noise_levels import by_noise_level
from learner.objectives.dpo import Dpo
from policy.conditioning import Conditioning
from policy.lora.adapters import adapter_state, load_adapter_state
from policy.policy import VideoPolicy
from policy.sampler import draw_noise, sample_latents

CONFIG = Path("configs/miniature.yaml")
RESULTS = Path("docs/results/apo_vs_dpo")
PAIRS = Path("runs/apo_vs_dpo/pairs.safetensors")

PAIRS_PER_STEP = 8
BUDGET = 4800
"""Pair-timesteps of a run: 120 optimizer steps of APO (8 pairs x 5 timesteps), 600 of one timestep a step, as the paper
gives Diffusion-DPO five times the steps. Each is 2 rows with gradient and 2 of the reference."""

POOL_VIDEOS, POOL_SEED = 2048, 2_000_000
VIDEOS, CURVE_VIDEOS = 256, 128
"""Measured at the end, and at each earlier point of the curve (the first ones of the same)."""
CURVE = (1 / 3, 2 / 3)
"""Shares of the budget at which a run is measured before its end."""

SEEDS = (0, 1, 2, 3, 4)
BETAS, RATES = (0.5, 5.0, 50.0, 500.0, 5000.0), (4e-5, 1e-4, 2e-4, 5e-4, 1.2e-3)
CHOOSING_SEEDS, FINALISTS = (100, 101), 2
"""All of the grid is tried with the first seed, its best few with the second too, and the best of those is used."""
OBEYED = ("colour", "direction")
"""What of the prompt a video must show. The runs that are there were measured before the meter looked at the object."""
KEPT = 0.9
"""Share of the base's motion and obedience that a setting must keep: a still video, or one of another colour, is not an
aligned one."""

ARMS: dict[str, dict[str, Any]] = {
    "dpo_uniform": {"kind": "uniform"},
    "dpo_logit_normal": {"kind": "logit_normal"},
    "apo": {},
    "apo_no_shift_no_offset": {"random_shift": False, "random_offset": False},
    "apo_isolated": {"window": "isolated"},
    "apo_high_only": {"high": 5, "low": 0},
    "apo_low_only": {"high": 0, "low": 3},  # at shift 6 ten inference steps leave three low anchors
    "apo_snap_anchor": {"snap": "grid"},
}
"""What each arm changes in `learner.timesteps`; everything else is the same."""


@dataclass(frozen=True)
class Job:
    """One training run. `phase`: "choose" (for beta and learning rate) or "compare"."""

    phase: str
    arm: str
    seed: int
    beta: float
    learning_rate: float

    @property
    def name(self) -> str:
        return f"{self.phase} {self.arm} seed {self.seed} beta {self.beta:g} rate {self.learning_rate:g}"


@dataclass
class Outcome:
    """What was measured of the first `len(distorted)` videos of a phase's list, one entry a video."""

    distorted: list[int] = field(default_factory=list)
    motion: list[float] = field(default_factory=list)
    obeyed: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return float(np.mean(self.distorted))


class Bench:
    """The bundle, its prompts and the pairs, as one process holds them; one run after another."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.config = load_config(CONFIG, [])
        self.policy = self._load(seed=0)
        self.prompts = {
            phase: [line.split("\t")[1] for line in lines]
            for phase, lines in zip(("choose", "compare"), split(), strict=True)
        }
        """Choosing is done on the training prompts: the comparison's are held out from it as well."""
        every = [*self.prompts["choose"], *self.prompts["compare"], ""]
        self.embeds = dict(zip(every, self.policy.encode_prompts(every), strict=True))
        sampling = self.config.sampling
        self.shape = self.policy.facts.latent_shape(sampling.num_frames, sampling.height, sampling.width)

    def _load(self, *, seed: int) -> VideoPolicy:
        model = self.config.model
        return VideoPolicy.load(
            model.path,
            dtype=model.dtype,
            lora=self.config.learner.lora,
            seed=seed,
            max_text_tokens=model.max_text_tokens,
        )

    def sample(self, prompts: list[str], seeds: list[int]) -> Tensor:
        """Latents of the policy as it is now, sampled as the demo samples."""
        return sample_latents(
            self.policy,
            noise=torch.stack([draw_noise(seed, self.shape) for seed in seeds]),
            conditioning=Conditioning(torch.stack([self.embeds[prompt] for prompt in prompts])),
            negative=Conditioning(self.embeds[""][None]).repeated(len(prompts)),
            sampling=self.config.sampling,
        )

    def evaluate(self, phase: str, videos: int) -> Outcome:
        """The first `videos` of a phase's fixed list of prompts and noises."""
        outcome = Outcome()
        first = {"choose": 3_000_000, "compare": 4_000_000}[phase]
        known = self.prompts[phase]
        for numbers in _chunks(list(range(videos)), 32):
            prompts = [known[number % len(known)] for number in numbers]
            frames = self.policy.decode(self.sample(prompts, [first + number for number in numbers]))
            for video, prompt in zip(frames, prompts, strict=True):
                found = measure(video, prompt)
                outcome.distorted.append(int(found.distorted))
                outcome.motion.append(round(found.motion, 3))
                asked = obeyed(video, prompt)
                outcome.obeyed.append(int(all(asked[each] for each in OBEYED)))
        return outcome

    def make_pairs(self) -> None:
        """Two videos of each training prompt, kept if the meter calls exactly one of them distorted."""
        known = self.prompts["choose"]
        chosen, rejected, of = [], [], []
        for numbers in _chunks(list(range(POOL_VIDEOS)), 32):
            prompts = [known[number // 2 % len(known)] for number in numbers]
            latents = self.sample(prompts, [POOL_SEED + number for number in numbers])
            found = [measure(v, p).distorted for v, p in zip(self.policy.decode(latents), prompts, strict=True)]
            for a in range(0, len(numbers), 2):
                if found[a] != found[a + 1]:
                    chosen.append(latents[a if found[a + 1] else a + 1].clone())
                    rejected.append(latents[a + 1 if found[a + 1] else a].clone())
                    of.append(known.index(prompts[a]))
            if (numbers[-1] + 1) % 512 == 0:
                print(f"pairs: {len(of)} of the first {numbers[-1] + 1} videos", flush=True)
        PAIRS.parent.mkdir(parents=True, exist_ok=True)
        stacked = {"chosen": torch.stack(chosen), "rejected": torch.stack(rejected), "prompt": torch.tensor(of)}
        save_file(stacked, PAIRS.with_suffix(".unfinished"))
        PAIRS.with_suffix(".unfinished").rename(PAIRS)

    def pairs(self) -> list[Pair]:
        held = load_file(PAIRS)
        return [
            Pair(
                id=f"pair{index}",
                condition_id=self.prompts["choose"][int(prompt)],
                chosen_id=f"chosen{index}",
                rejected_id=f"rejected{index}",
                chosen=encode(held["chosen"][index]),
                rejected=encode(held["rejected"][index]),
                policy_version=0,
                source="offline",
            )
            for index, prompt in enumerate(held["prompt"])
        ]

    def train(self, job: Job) -> dict[str, Any]:
        """One run from the base to the end of its budget; a plain JSON row."""
        started = time.perf_counter()
        load_adapter_state(self.policy.transformers, adapter_state(self._load(seed=job.seed).transformers))
        timesteps = TimestepsConfig(**ARMS[job.arm])
        config = LearnerConfig(
            beta=job.beta,
            learning_rate=job.learning_rate,
            pairs_per_step=PAIRS_PER_STEP,
            microbatch_pairs=PAIRS_PER_STEP,
            gradient_checkpointing=False,
            lora=self.config.learner.lora,
            timesteps=timesteps,
        )
        learner = Learner(
            self.policy, config, Dpo(config.beta), sampling_steps=self.config.sampling.steps, seed=job.seed
        )
        steps = BUDGET // (PAIRS_PER_STEP * timesteps.count)
        measured_at = {round(share * steps): share for share in CURVE if job.phase == "compare"}
        batches = self._batches(job.seed)
        rows: list[dict[str, Any]] = []
        curve: list[dict[str, Any]] = []
        for step in range(1, steps + 1):
            rows.append(learner.step(next(batches)))
            if step in measured_at:
                curve.append({"share": measured_at[step], **asdict(self.evaluate(job.phase, CURVE_VIDEOS))})
        trained = time.perf_counter() - started
        return {
            **asdict(job),
            "steps": steps,
            "timesteps_per_step": timesteps.count,
            "loss": [round(row["loss"], 4) for row in rows],
            "grad_norm": [round(row["grad_norm"], 4) for row in rows],
            "drift": [round(row["drift"], 6) for row in rows],
            "levels": [
                {"level": level, **{name: round(value, 6) for name, value in figures.items()}}
                for level, figures in by_noise_level(rows[len(rows) // 2 :]).items()
            ],
            "curve": curve,
            "final": asdict(self.evaluate(job.phase, VIDEOS)),
            "train_s": round(trained, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }

    def _batches(self, seed: int) -> Iterator[Batch]:
        """Every pair once in an order of the seed, then again in another; the same for all arms."""
        pairs = self.pairs()
        rng = np.random.default_rng(seed)
        conditionings = {
            prompt: EncodedCondition(Condition(prompt, prompt), encode(self.embeds[prompt]))
            for prompt in self.prompts["choose"]
        }
        order: list[int] = []
        step = 0
        while True:
            while len(order) < PAIRS_PER_STEP:
                order += rng.permutation(len(pairs)).tolist()
            taken, order = [pairs[index] for index in order[:PAIRS_PER_STEP]], order[PAIRS_PER_STEP:]
            yield Batch(step, tuple(taken), conditionings, (0,) * len(taken))
            step += 1


def _chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


@cache
def _bench() -> Bench:
    """This process's own; the bundle is loaded once."""
    return Bench()


def _train(job: Job) -> dict[str, Any]:
    return _bench().train(job)


def _base() -> list[dict[str, Any]]:
    """The base itself, measured as every run is."""
    return [{"phase": phase, "arm": "base", "final": asdict(_bench().evaluate(phase, VIDEOS))} for phase in FIRST]


def _make_pairs() -> None:
    _bench().make_pairs()


FIRST = ("choose", "compare")


def ranked(rows: list[dict[str, Any]], arm: str, seeds: tuple[int, ...]) -> list[tuple[float, float]]:
    """(beta, learning rate) of an arm's choosing runs that have all these seeds, the best first.

    Best is the lowest mean distortion rate of those that keep `KEPT` of the base's motion and obedience; the others
    come behind, by the larger share that they lack. Ties go to the smaller learning rate.
    """
    base = next(row["final"] for row in rows if row["arm"] == "base" and row["phase"] == "choose")
    tried: dict[tuple[float, float], dict[int, Any]] = {}
    for row in rows:
        if (row["phase"], row["arm"]) == ("choose", arm):
            tried.setdefault((row["beta"], row["learning_rate"]), {})[row["seed"]] = row["final"]
    scored = []
    for (beta, rate), runs in tried.items():
        if set(seeds) <= runs.keys():

            def mean(what: str, of: dict[int, Any] = runs) -> float:
                return float(np.mean([of[seed][what] for seed in seeds]))

            lacking = max(KEPT - mean(what) / float(np.mean(base[what])) for what in ("motion", "obeyed"))
            scored.append((max(0.0, lacking), mean("distorted"), rate, beta))
    return [(beta, rate) for _, _, rate, beta in sorted(scored)]


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _append(file: Path, row: dict[str, Any]) -> None:
    """Durable before the next run is begun."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")
        out.flush()
        os.fsync(out.fileno())


def _do(pool: ProcessPoolExecutor, jobs: list[Job], file: Path) -> None:
    """Every job that has no row yet; a row is written when it is done, and says how long the rest will take."""
    done = {row["name"] for row in _rows(file) if "name" in row}
    left = [job for job in jobs if job.name not in done]
    started = time.perf_counter()
    for count, future in enumerate(as_completed({pool.submit(_train, job): job for job in left}), start=1):
        row = future.result()
        job = Job(*(row[key] for key in ("phase", "arm", "seed", "beta", "learning_rate")))
        _append(file, {"name": job.name, **row})
        rest = (time.perf_counter() - started) / count * (len(left) - count)
        rate = float(np.mean(row["final"]["distorted"]))
        motion = float(np.mean(row["final"]["motion"]))
        print(
            f"[{count} of {len(left)}] {job.name}: {rate:.1%} distorted, motion {motion:.2f}, {row['seconds']:.0f} s; "
            f"{rest / 60:.0f} min left",
            flush=True,
        )


def main() -> None:
    """Make the pairs, choose, compare, report; whatever is there already is not done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--report-only", action="store_true")
    arguments = parser.parse_args()
    file = RESULTS / "runs.jsonl"
    if not arguments.report_only:
        os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.jobs, mp_context=spawn) as pool:
            pairs = None if PAIRS.exists() else pool.submit(_make_pairs)
            if not any(row["arm"] == "base" for row in _rows(file)):
                for row in pool.submit(_base).result():
                    _append(file, row)
            if pairs is not None:
                pairs.result()
            arms = ("apo", "dpo_uniform")
            first, second = CHOOSING_SEEDS
            grid = [(beta, rate) for beta in BETAS for rate in RATES]
            _do(pool, [Job("choose", arm, first, *setting) for setting in grid for arm in arms], file)
            finalists = {arm: ranked(_rows(file), arm, (first,))[:FINALISTS] for arm in arms}
            _do(pool, [Job("choose", arm, second, *setting) for arm in arms for setting in finalists[arm]], file)
            chosen = {arm: ranked(_rows(file), arm, CHOOSING_SEEDS)[0] for arm in arms}
            print(f"beta and learning rate: {chosen}", flush=True)
            compared = [
                Job("compare", arm, seed, *chosen["dpo_uniform" if arm.startswith("dpo") else "apo"])
                for seed in SEEDS
                for arm in ARMS
            ]
            _do(pool, compared, file)
    write_report(_rows(file), RESULTS)


if __name__ == "__main__":
    main()
