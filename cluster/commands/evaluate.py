"""`apogee evaluate POLICY... --prompts P --out FOLDER`: policies on the same prompts and noises, measured and compared.

What it leaves in `out`: `report.html`, `comparison.json`, `videos/<policy>/`, and what a run leaves of its actors'
figures and logs.
"""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.evaluator import Evaluator
from actors.prompts import read_prompts, sized
from buffers.figures import differences_of, figures_of
from buffers.records import Condition, Request
from buffers.tensors import snapshot_of
from cluster.checks import out_folder, plan, resources
from cluster.checks.judge import check_judge, check_prompts, check_questions
from cluster.checks.run import check_pictures
from cluster.evaluation import compare, evaluate, requests_of
from cluster.monitor.log_file import logs_to
from cluster.monitor.progress import Progress
from cluster.on_ray import connect, placement
from cluster.on_ray.crew import Crew
from cluster.report.comparison import write_comparison
from cluster.run_folder import RunFolder, Sampled
from cluster.signals import until_stopped
from configs.contradictions import SIZE
from configs.load import load_config
from configs.schema import RunConfig
from configs.sections import LoraConfig, RankerConfig
from media.whole import write_whole
from policy.bundle import BundleFacts, check_bundle
from policy.lora.adapters import add_adapters, check_lora
from policy.lora.files import adapter_files, read_layers
from policy.skeleton import skeleton

BASE = "base"
"""The policy that is the bundle itself."""

LONGEST_NAME = 255
"""Bytes of a file's name."""


@dataclass(frozen=True)
class Policy:
    """One of those that are compared. `adapter`: its folder or file; None: the base. `judge`: who judged its pairs."""

    name: str
    adapter: Path | None
    sampled: Sampled
    judge: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Checked and ready to start. `config`: of the roles; its adapter has room for that of every policy."""

    config: RunConfig
    policies: list[Policy]
    requests: list[Request]
    snapshots: list[Any]
    seeds: int
    is_judged: bool


def prepare(
    places: Sequence[str],
    *,
    prompts: str,
    out: Path,
    config: str | None,
    overrides: Sequence[str],
    seeds: int,
    judged: bool,
    vbench: Path | None,
) -> Comparison:
    """Read and check everything that a comparison needs. `config`: a file's path; None: that of the first run named.

    Raises ValueError or OSError that names the argument, the file or the key, before anything is started.
    """
    out_folder.check_new(out)
    runs = [RunFolder.around(Path(place)) for place in places if place != BASE]
    first = next((run for run in runs if run is not None), None)
    if config is None and first is None:
        raise ValueError(f"{', '.join(places)}: none of them lies in a run's folder; name a config with --config")
    file = config or str(first.config_file if first else "")
    given = load_config(file, [*overrides, f"out={out}", "start_from=null"])
    policies = [_policy(place, given) for place in places]
    if twice := {each.name for each in policies if [p.name for p in policies].count(each.name) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))}: given twice, or two of the same name; rename a folder")
    facts = check_bundle(given.model.path)
    conditions = read_prompts(prompts, max_characters=given.prompts.max_characters)
    conditions = sized(conditions, given.sampling, grid=facts.grid, seed=given.seed)
    check_pictures(given, facts, conditions)
    if vbench is not None:
        _check_names(conditions, prompts)
    ranker = given.ranker.model_copy(update={"both_orders": True})
    is_judged = judged and len(policies) > 1 and bool(ranker.path or ranker.function)
    count = len(conditions) * seeds
    evaluation = given.evaluation.model_copy(update={"prompts": prompts, "videos": count, "shown_videos": count})
    ready = given.model_copy(update={"ranker": ranker, "evaluation": evaluation})
    Evaluator(evaluation.meter, out, 0, given.sampling.fps)  # imports the meter
    if is_judged and ranker.kind == "qwen_vl":
        check_judge(ranker)
        check_questions(ready, conditions)
        check_prompts(ranker, conditions)
    for size in plan.sizes_of(given.sampling, conditions):
        facts.latent_shape(given.sampling.num_frames, *size)
    ready, snapshots = _with_adapters(ready, facts, policies)
    per_request = max(1, 2 * ready.generator.conditions_per_request // seeds)
    starts = range(evaluation.seed, evaluation.seed + count, seeds)
    slots = [(each, tuple(range(start, start + seeds))) for start, each in zip(starts, conditions, strict=True)]
    return Comparison(ready, policies, requests_of(slots, per_request), snapshots, seeds, is_judged)


def run_comparison(comparison: Comparison, out: Path, *, vbench: Path | None) -> Path:
    """Make the videos, measure and compare them, and write everything down; returns the report."""
    config, folder = comparison.config, RunFolder(out)
    folder.logs.mkdir(parents=True, exist_ok=True)  # no config.yaml: a comparison is no run
    with Progress(0) as progress, logs_to(folder.logs / "driver.log"):
        progress.phase("start", waiting_for="Ray")
        needed = resources.evaluation_needs(config, judged=comparison.is_judged)
        with connect.connected(config.cluster, on_gpus=any(need.gpus for need in needed), logs=folder.logs):
            placement.wait_for_room(needed, config.cluster)
            crew = Crew(config, folder, started=time.time(), encoded_by={})
            summaries = asyncio.run(
                until_stopped(_shown(comparison, crew, progress), crew.supervisor.watch_ray(crew.small))
            )
        progress.phase("report")
        found = _found(comparison, summaries)
        write_whole(out / "comparison.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        if vbench is not None:
            _write_vbench(comparison, summaries, out, vbench)
        return write_comparison(out, found, config)


async def _shown(comparison: Comparison, crew: Crew, progress: Progress) -> dict[str, dict[str, Any]]:
    """The evaluator's summary of every policy. The judge is started when all videos are there: it may need the GPUs."""
    config, videos, summaries = comparison.config, comparison.config.evaluation.videos, {}
    crew.start_generators(config)
    both: dict[str, Any] = {"evaluator": crew.evaluator, "recover": crew.supervisor.recover, "deadline": crew.deadline}
    for policy, snapshot in zip(comparison.policies, comparison.snapshots, strict=True):
        progress.phase(f"videos of {policy.name}", waiting_for=None)
        summaries[policy.name] = await evaluate(
            policy.name,
            comparison.requests,
            generators=crew.generators,
            sampling=policy.sampled.sampling,
            snapshot=None if snapshot is None else crew.shared(snapshot),
            requests_in_flight=config.generator.requests_in_flight,
            measured=lambda done: progress.update(measured=f"{done} of {videos}"),
            **both,
        )
    if comparison.is_judged:
        crew.start_rankers()
        against, *others = (policy.name for policy in comparison.policies)
        for name in others:
            progress.phase(f"{name} against {against}, judged", measured=None)
            asked = {"against": against, "videos": videos, "at_once": 2 * config.generator.conditions_per_request}
            summaries[name] |= await compare(name, rankers=crew.rankers, config=config.ranker, **asked, **both)
    return summaries


def _found(comparison: Comparison, summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every policy's figures, and their paired differences to the first one's; plain JSON."""
    first = summaries[comparison.policies[0].name]["measured"]
    judge = _judge(comparison.config.ranker) if comparison.is_judged else None
    policies = []
    for policy in comparison.policies:
        summary = summaries[policy.name]
        figures, changes = figures_of(summary["measured"], summary["about"]), differences_of(summary["measured"], first)
        about = {
            "name": policy.name,
            "adapter": str(policy.adapter or comparison.config.model.path),
            "distilled": policy.sampled.distilled,
            "trained_by": policy.judge,
            "trained_by_this_judge": judge is not None and policy.judge == judge,
            **{key: summary[key] for key in ("passes", "seconds", "kept")},
            "figures": {name: {"value": each, "change": changes.get(name)} for name, each in figures.items()},
        }
        policies.append(about)
    evaluation = comparison.config.evaluation
    asked = {"prompts": evaluation.prompts, "seeds": comparison.seeds, "videos": evaluation.videos}
    return {**asked, "judge": judge, "meter": evaluation.meter, "policies": policies}


def _policy(place: str, config: RunConfig) -> Policy:
    """A policy by what the user calls it: `base`, a run's folder, or an adapter's."""
    if place == BASE:
        return Policy(BASE, None, Sampled(False, config.sampling))
    path = Path(place).absolute()
    run = RunFolder.around(path)
    adapter = run.adapter if run is not None and run.path == path else path
    if not adapter_files(adapter):
        raise FileNotFoundError(f"{place}: no adapter is there; name {BASE}, a run's folder, or an adapter's")
    own = load_config(str(run.config_file), []) if run is not None else None
    if own is not None and Path(own.model.path).resolve() != Path(config.model.path).resolve():
        raise ValueError(f"{place}: is for {own.model.path}, the other policies for {config.model.path}")
    inside = path.relative_to(run.path.parent).parts if run is not None else path.parts[-1:]
    name = re.sub(r"[^\w.-]+", "-", "-".join(part for part in inside if part != "adapters"))
    said = (Sampled.read(adapter) if adapter.is_dir() else None) or Sampled(False, config.sampling)
    size = {key: getattr(config.sampling, key) for key in SIZE}  # videos of one size are compared
    sampled = Sampled(said.distilled, said.sampling.model_copy(update=size))
    return Policy(name, adapter, sampled, _judge(own.ranker) if own is not None and own.asks_ranker else None)


def _judge(ranker: RankerConfig) -> str:
    """The judge by name: its function, or its checkpoint with its adapters."""
    if ranker.kind == "function":
        return str(ranker.function)
    adapters = [each for each in (ranker.adapters.human, ranker.adapters.general) if each]
    return " + ".join([ranker.path, *adapters])


def _with_adapters(config: RunConfig, facts: BundleFacts, policies: Sequence[Policy]) -> tuple[RunConfig, list[Any]]:
    """The config with an adapter that has room for all of theirs, and each as a snapshot for it (None: the base)."""
    files = [file for policy in policies if policy.adapter for file in adapter_files(policy.adapter).values()]
    layers = [layer for file in files for layer in read_layers(file).items()]
    rank = max((len(layer.down) for _, layer in layers), default=1)
    targets = sorted({re.sub(r"^blocks\.\d+\.(attn\d\.)?", "", name) for name, _ in layers})
    lora = LoraConfig(rank=rank, alpha=rank, targets=targets or config.learner.lora.targets)
    experts = {name: skeleton(facts, name) for name in facts.experts}
    for expert in experts.values():
        expert.to_empty(device="cpu")
    add_adapters(experts, lora, seed=config.seed)
    snapshots = [
        snapshot_of(number, check_lora(policy.adapter, experts)) if policy.adapter is not None else None
        for number, policy in enumerate(policies, start=1)
    ]
    return config.model_copy(update={"learner": config.learner.model_copy(update={"lora": lora})}), snapshots


def _check_names(conditions: Sequence[Condition], prompts: str) -> None:
    """VBench finds a video by its prompt, which is its file's name."""
    for condition in conditions:
        name = f"{condition.prompt}-0.mp4"
        if "/" in name or len(name.encode()) > LONGEST_NAME:
            raise ValueError(
                f"{prompts}: --vbench names files after prompts, and {condition.prompt[:60]!r} is no file's name: it "
                f"has a slash, or more than {LONGEST_NAME - 6} bytes"
            )


def _write_vbench(comparison: Comparison, summaries: dict[str, dict[str, Any]], out: Path, vbench: Path) -> None:
    """`<policy>/<prompt>-<index>.mp4`: the names that VBench and VBench-I2V look for."""
    for policy in comparison.policies:
        folder = vbench / policy.name
        folder.mkdir(parents=True, exist_ok=True)
        for number, kept in enumerate(summaries[policy.name]["kept"]):
            name = f"{kept['prompt']}-{number % comparison.seeds}.mp4"
            write_whole(folder / name, (out / kept["file"]).read_bytes())
