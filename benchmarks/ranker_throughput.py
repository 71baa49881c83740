"""What the ranker's own work costs: pairs a second through its actor, against its engine called directly.

    python -m benchmarks.ranker_throughput configs/miniature.yaml --out build/ranker_throughput.json

Both in the same actor, on the same engine, one after the other and in turns, each round on videos that nobody has seen
(vLLM keeps what it computed of a video). Directly: vLLM's `generate` on the finished prompts of all pairs in both
orders at once, nothing else in the clock. Through the ranker: as many callers as a run has requests in flight, each
sending its next pairs when it has its verdicts, with all that a run does: clips through Ray's object store, sampling
of frames, prompts, both orders, decisions. Videos are noise of the config's size.
"""

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ray

from buffers.records import CandidateVideos, Condition
from cluster.on_ray.connect import connected
from configs.load import load_config
from configs.schema import RunConfig
from ranker.judges.qwen_vl import VllmJudge
from ranker.ranker import Ranker


class Measured(Ranker):
    """The ranker, and beside it its engine as a caller of vLLM would use it."""

    def direct(self, clips: list[CandidateVideos]) -> float:
        """Seconds of vLLM for these pairs, in the orders that a run asks. Their conditions name a domain."""
        judge = self._judge
        assert isinstance(judge, VllmJudge)
        questions = [self._question(pair, pair.condition.domain) for pair in clips if pair.condition.domain]
        orders = [order for question in questions for order in (question, question.turned())]
        prompts: Any
        prompts, adapters = zip(*judge.prompts(orders if self.config.both_orders else questions), strict=True)
        started = time.perf_counter()
        judge.engine.generate(prompts, judge.sampling, lora_request=list(adapters), use_tqdm=False)
        return time.perf_counter() - started


def noise(config: RunConfig, pairs: int, seed: int) -> list[CandidateVideos]:
    """Pairs of videos of the config's size, the domains in turn."""
    rng, size = np.random.default_rng(seed), config.sampling
    shape = (size.num_frames, size.height, size.width, 3)
    return [
        CandidateVideos(
            Condition(f"{seed}-{number}", "noise", "human" if number % 2 else "general"),
            rng.integers(0, 256, shape, dtype=np.uint8),
            rng.integers(0, 256, shape, dtype=np.uint8),
            fps=size.fps,
            policy_version=0,
        )
        for number in range(pairs)
    ]


def through_the_ranker(ranker: Any, clips: list[CandidateVideos], *, callers: int, at_once: int) -> float:
    """Seconds until every pair has its verdict."""
    batches = [clips[start : start + at_once] for start in range(0, len(clips), at_once)]
    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        verdicts = list(pool.map(lambda batch: ray.get(ranker.rank.remote(batch)), batches))
    assert sum(map(len, verdicts)) == len(clips)
    return time.perf_counter() - started


def measure(config: RunConfig, *, pairs: int, rounds: int) -> dict[str, Any]:
    generator, section = config.generator, config.ranker
    callers = max(2, generator.num_actors * generator.requests_in_flight)
    at_once = generator.conditions_per_request
    actor: Any = ray.remote(Measured).options(
        num_cpus=section.cpus_per_actor, num_gpus=section.gpus_per_actor, max_concurrency=callers + 1
    )
    ranker = actor.remote(section)
    ray.get(ranker.__ray_ready__.remote())
    direct, through = [], []
    for number in range(rounds + 1):  # the first is not counted
        for way in ("direct", "through") if number % 2 else ("through", "direct"):
            clips = noise(config, pairs, seed=2 * number + (way == "direct"))
            if way == "direct":
                direct.append(ray.get(ranker.direct.remote(clips)))
            else:
                through.append(through_the_ranker(ranker, clips, callers=callers, at_once=at_once))
        print(f"round {number}: direct {direct[-1]:.2f} s, through the ranker {through[-1]:.2f} s", flush=True)
    ratios = [one / other for one, other in zip(direct[1:], through[1:], strict=True)]
    return {
        "pairs": pairs,
        "callers": callers,
        "pairs_per_call": at_once,
        "direct_pairs_per_second": round(pairs / statistics.median(direct[1:]), 2),
        "ranker_pairs_per_second": round(pairs / statistics.median(through[1:]), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--pairs", type=int, default=192, help="a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    on_gpus = config.ranker.gpus_per_actor > 0
    with tempfile.TemporaryDirectory() as logs, connected(config.cluster, on_gpus=on_gpus, logs=Path(logs)):
        found = {"config": arguments.config, **measure(config, pairs=arguments.pairs, rounds=arguments.rounds)}
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
