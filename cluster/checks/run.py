"""The one pass of checks before a run: it finds every problem at once, and hands on what it read."""

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path

from actors.evaluator import JUDGED, Evaluator
from actors.prompts import first_frame, picture_size_of, read_prompts, sized
from actors.streams import AnchorStream
from buffers.people.manifests import listed, made_or_why
from buffers.records import Condition
from buffers.store.pair_store import PairStore
from cluster.checks import judge, out_folder, resources
from cluster.checks.bundle import encoded_by
from cluster.checks.plan import Plan, plan, sizes_of
from cluster.evaluation import is_judged
from cluster.monitor.metrics import check_tracker
from cluster.run_folder import Sampled
from configs.keys import shown
from configs.paths import absolute
from configs.schema import RunConfig
from policy.bundle import BundleFacts, check_bundle
from ranker.judges.function import FunctionRanker

OF_JUDGE = ("ranker.path", "ranker.adapters.human", "ranker.adapters.general")
OF_REWARD = ("reward.path", "reward.words")
PATHS = ("model.path", *OF_JUDGE, "prompts.train", "evaluation.prompts", *OF_REWARD, "start_from")
"""Keys of paths besides `out`. `buffer.offline` and `buffer.anchors` may be URIs."""

READERS = 8
"""Pictures that are looked at at a time."""

NOTABLE_CUT = 0.05
"""What a picture may lose of its area without a word."""


@dataclass
class Checked:
    """A config, what is wrong with it, and what was read to know that; nothing of it is read again.

    config: with absolute paths. problems: a sentence each that names the key or file and what would be right; a run
    needs it to be empty. facts: the bundle's, None if it cannot be used. encoded_by: what the bundle's latents belong
    to (`PairStore`). goes_on: whether the run's folder holds a run of this config that was stopped.
    """

    config: RunConfig
    problems: list[str] = field(default_factory=list)
    facts: BundleFacts | None = None
    plan: Plan | None = None
    training: list[Condition] = field(default_factory=list)
    held_out: list[Condition] = field(default_factory=list)
    encoded_by: dict[str, str] = field(default_factory=dict)
    goes_on: bool = False

    @contextmanager
    def collected(self, setting: str = "") -> Iterator[None]:
        """A ValueError or OSError of the block is a problem; `setting`, `key = value`, goes before its sentence."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.problems.append(f"{setting}: {error}" if setting else str(error))

    def note(self, said: str) -> None:
        """A sentence of the plan that is no problem."""
        if self.plan is not None:
            self.plan = replace(self.plan, notes=(*self.plan.notes, said))


def check(config: RunConfig) -> Checked:
    """Look at every file the config names, at the machine, and at the folder that the run will write into.

    Sentences have the paths as the config has them. The model's classes are asked last, and only if nothing else is
    wrong: loading torch takes seconds.
    """
    checked = Checked(absolute(config, *PATHS, local=config.cluster.address == "local"))
    _bundle(config, checked)
    notes: list[str] = []
    for key, path, conditions in _prompts(config, checked):
        with checked.collected(f"{key} = {path}"):
            conditions += read_prompts(path, max_characters=config.prompts.max_characters)
            if checked.facts is not None:
                conditions[:] = sized(conditions, config.sampling, grid=checked.facts.grid, seed=config.seed)
                notes += check_pictures(config, checked.facts, conditions)
    with checked.collected():
        if checked.facts is not None:
            every = (*checked.training, *checked.held_out)
            checked.plan = plan(config, checked.facts, conditions=every, notes=notes)
    _people(config, checked)
    _anchors(config, checked)
    _start(config, checked)
    _functions_and_judge(config, checked)
    with checked.collected(f"tracker = {config.tracker}"):
        check_tracker(config)
    _processes(config, checked)
    with checked.collected():
        checked.goes_on = out_folder.goes_on(checked.config)
        out_folder.check_writable(config.out)
        if checked.plan is not None and not checked.goes_on:
            out_folder.check_disk(checked.plan, conditions=len(checked.training))
    checked.problems = list(dict.fromkeys(checked.problems))  # what holds for several stages is said once
    if checked.facts is not None and not checked.problems:
        from cluster.checks.model import check_model

        check_model(config, checked.facts, checked)
    return checked


def _prompts(config: RunConfig, checked: Checked) -> list[tuple[str, str, list[Condition]]]:
    """Key, file and conditions: of those that are learned from, then of those that are held out."""
    training = ("prompts.train", config.prompts.train, checked.training)
    return [training, ("evaluation.prompts", config.evaluation.prompts, checked.held_out)]


def _bundle(config: RunConfig, checked: Checked) -> None:
    with checked.collected():
        checked.facts = check_bundle(config.model.path)
        checked.facts.check_text_tokens(config.model.max_text_tokens)
        checked.encoded_by = encoded_by(checked.facts, max_text_tokens=config.model.max_text_tokens)
        for stage in config.by_stage():
            checked.facts.check_skipped(stage.sampling.stg_blocks)
        low = config.sampling.guidance_scale_2
        if low is not None and len(checked.facts.experts) == 1:
            raise ValueError(f"sampling.guidance_scale_2 = {low:g}: {config.model.path} has one expert; leave it out")


def check_pictures(config: RunConfig, facts: BundleFacts, conditions: Sequence[Condition]) -> list[str]:
    """Prompts have first frames if the bundle's videos begin with such, and every picture can be read.

    Returns what is to be said of how they are cut.
    """
    for each in conditions:
        facts.check_first_frame(each.prompt, given=each.picture is not None)
    framed = sum(each.picture is not None for each in conditions)
    if 0 < framed < len(conditions):
        raise ValueError(f"{framed} of {len(conditions)} prompts have a first frame: either all have one, or none")
    if not framed:
        return []
    usual = (config.sampling.height, config.sampling.width)

    def kept(condition: Condition) -> tuple[float, str]:
        (height, width), (high, wide) = condition.size or usual, picture_size_of(condition)
        first_frame(condition, height=height, width=width)
        scale = max(height / high, width / wide)
        return height * width / (high * wide * scale**2), str(condition.picture)

    with ThreadPoolExecutor(READERS) as readers:
        found = [*readers.map(partial(made_or_why, kept), conditions)]
    if bad := [why for why in found if isinstance(why, str)]:
        raise ValueError(listed(bad, of="first frames"))
    cut = sorted(each for each in found if not isinstance(each, str) and each[0] < 1 - NOTABLE_CUT)
    if not cut:
        return []
    share, name = cut[0]
    return [
        f"{len(cut)} of {len(found)} first frames have another shape than their videos and lose more than "
        f"{NOTABLE_CUT:.0%} of their area at the sides; most of all {name}, {1 - share:.0%}. With sampling.pixels in "
        "place of height and width videos have the shape of their pictures"
    ]


def _store(place: str, checked: Checked) -> closing[PairStore]:
    return closing(PairStore(place, write=False, encoded_by=checked.encoded_by))


def _people(config: RunConfig, checked: Checked) -> None:
    """The stores of people's own pairs are there, of this bundle, and hold as many as the run will take."""
    for stage in config.by_stage():
        place, share = stage.buffer.offline, stage.buffer.mix.offline
        if not share or place is None or checked.facts is None:
            continue
        with checked.collected(f"buffer.offline = {place}"), _store(place, checked) as store:
            pairs = store.catalog.preferences()
            uses, steps, per_step = stage.buffer.max_uses, stage.stages[0].steps, stage.learner.pairs_per_step
            wanted, at_once = ceil(steps * per_step * share), ceil(per_step * share)
            if at_once > pairs:
                raise ValueError(
                    f"holds {pairs:,} pairs; a step of {per_step} pairs with buffer.mix.offline = {share:g} takes "
                    f"{at_once} different ones, and would wait for ever: lower learner.pairs_per_step"
                )
            if wanted > pairs * uses:
                raise ValueError(
                    f"holds {pairs:,} pairs, which a stage may use {uses} times (buffer.max_uses); {steps:,} steps of "
                    f"{per_step} pairs with buffer.mix.offline = {share:g} take {wanted:,}, and would wait for ever "
                    "for the rest"
                )


def _anchors(config: RunConfig, checked: Checked) -> None:
    """The store of anchors is there, is of this bundle and this size, has both polarities, and one for each prompt."""
    for stage in config.by_stage():
        place = stage.buffer.anchors
        if not stage.buffer.mix.half_online or place is None or checked.facts is None:
            continue
        with checked.collected(f"buffer.anchors = {place}"), _store(place, checked) as store:
            AnchorStream(store, positive_share=stage.buffer.positive_share, per_request=1, seed=0)
            sampling, sides, size = stage.sampling, slice(2), checked.facts.grid
            if sampling.pixels is None:  # otherwise the policy's videos get the height and width of the anchor
                sides, size = slice(None), sizes_of(sampling)[0]
            wanted = checked.facts.latent_shape(sampling.num_frames, *size)
            if others := [shape for shape in store.catalog.shapes_of_anchors() if shape[sides] != wanted[sides]]:
                raise ValueError(
                    f"holds anchors with latents {list(others[0])}; videos of sampling.num_frames, height and width "
                    f"have {list(wanted)[sides]}: ingest the anchors at that size"
                )
            known = store.catalog.conditions_of_anchors()
            bare = [condition.prompt for condition in checked.training if condition.id not in known]
            if bare and stage.buffer.without_anchor == "refuse":
                raise ValueError(
                    f"holds no anchor for {len(bare)} of the {len(checked.training)} prompts of prompts.train, the "
                    f"first is {shown(bare[0])}; label videos of them, or give buffer.without_anchor: skip"
                )


def _start(config: RunConfig, checked: Checked) -> None:
    """An adapter that says how it is sampled is sampled so."""
    if config.start_from is None:
        return
    with checked.collected(f"start_from = {config.start_from}"):
        said, first = Sampled.read(Path(config.start_from)), config.of_stage(config.first_stage)
        if said is not None and said.distilled and (first.sampling.guided_steps or first.sampling.skipping_steps):
            raise ValueError(
                "is a distilled student, which has guidance inside: give sampling.guidance_scale=1 and "
                "sampling.stg_scale=0, without stg_blocks and negative_prompt"
            )
        if said is not None and not said.distilled and config.is_distilled(config.first_stage):
            raise ValueError(
                f"no distillation made this adapter, and stage {config.first_stage} comes after one: name the adapter "
                "that the distill stage left"
            )


def _functions_and_judge(config: RunConfig, checked: Checked) -> None:
    """The user's functions can be imported; the judge can be served, if a stage asks it."""
    with checked.collected():
        evaluator = Evaluator(config.evaluation.meter, Path(config.out), 0, config.sampling.fps)  # imports the meter
        known, best = list(JUDGED if is_judged(config) else evaluator.about), config.evaluation.best
        if best is not None and best not in known:
            raise ValueError(f"evaluation.best = {best}: the figures are {', '.join(known) or 'none: give a meter'}")
    if not config.asks_ranker:
        return
    with checked.collected():
        if config.ranker.kind == "function":
            FunctionRanker(config.ranker)  # imports the function
        else:
            judge.check_judge(config.ranker)
            for stage in config.by_stage():
                if stage.asks_ranker:
                    judge.check_questions(stage, checked.training)
            for key, path, conditions in _prompts(config, checked)[: 2 if is_judged(config) else 1]:
                with checked.collected(f"{key} = {path}"):
                    judge.check_prompts(config.ranker, conditions)


def _processes(config: RunConfig, checked: Checked) -> None:
    """Each process uses at most one GPU, and all of a stage's fit on this machine, if Ray is to run on it.

    A cluster that is joined is asked once Ray is connected (`launch.py`).
    """
    of_each = [*map(resources.needs, config.by_stage()), resources.evaluation_needs(config)]
    for need in itertools.chain.from_iterable(of_each):
        if need.gpus > 1:
            key = f"{need.role}.gpus_per_{'worker' if need.role == 'learner' else 'actor'}"
            checked.problems.append(
                f"{key} = {need.gpus:g}: one process uses one GPU, and the others would stand idle; use 1, and "
                f"raise {need.key} for more processes"
            )
    if config.cluster.address == "local":
        cpus = config.cluster.num_cpus
        with checked.collected(f"cluster.num_cpus = {cpus}" if cpus else ""):
            for needed in of_each:  # the first that does not fit is said
                here = {"CPU": float(cpus or os.cpu_count() or 1), "GPU": _gpus_here(needed)}
                resources.check_resources(needed, [here])


def _gpus_here(needed: list[resources.Need]) -> float:
    if not any(need.gpus for need in needed):
        return 0.0
    import torch  # takes seconds; only for a run on GPUs

    return float(torch.cuda.device_count())
