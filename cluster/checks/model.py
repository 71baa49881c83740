"""What only the models' own classes can tell, without weights: weight files, tokenizer, timesteps, adapters."""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils.logging import disable_progress_bar

from configs.schema import RunConfig
from configs.sections import RewardConfig
from learner.levels import COUNT, MAX_SIGMA, Levels
from learner.reward import ControlWords, ImageTextReward
from learner.timesteps import check_timesteps
from policy.bundle import BundleFacts
from policy.lora.adapters import add_adapters, check_lora
from policy.skeleton import load_scheduler, load_tokenizer, skeleton
from policy.weight_files import check_weights
from ranker.judges.skeleton import check_judge_weights

if TYPE_CHECKING:  # the pass of checks imports this module, late
    from cluster.checks.run import Checked


def check_model(config: RunConfig, facts: BundleFacts, checked: "Checked") -> None:
    """Every problem is collected: the key or file, the value, and what would be right."""
    models = {}
    for name, held in facts.weights.items():
        with checked.collected():
            models[name] = skeleton(facts, name)
            check_weights(held, models[name], facts.path / name / "config.json")
    with checked.collected():
        load_tokenizer(facts)
    if config.asks_ranker and config.ranker.kind == "qwen_vl":
        with checked.collected():
            check_judge_weights(Path(config.ranker.path))
    with checked.collected():
        scheduler = load_scheduler(facts)
        for stage in config.by_stage():
            with checked.collected():
                timesteps, steps = stage.learner.timesteps, stage.sampling.steps
                check_timesteps(timesteps, scheduler, steps, boundary_ratio=facts.boundary_ratio)
                if timesteps.kind == "levels":
                    left_out = Levels(timesteps, scheduler, steps, boundary_ratio=facts.boundary_ratio).left_out
                    if left_out:
                        checked.note(
                            f"{left_out} of {COUNT:,} levels of direct_align are left out: a jump from them would end "
                            f"above sigma {MAX_SIGMA} or cross the boundary of the experts"
                        )
    if config.reward is not None:
        _reward(config.reward, checked)
    experts = {name: models[name] for name in facts.experts if name in models}
    if len(experts) < len(facts.experts):
        return
    with checked.collected():
        add_adapters(experts, config.learner.lora, seed=config.seed)
        if config.start_from is None:
            return
        try:
            check_lora(config.start_from, experts)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"start_from = {config.start_from}: {error}; name a folder such as the `adapter` that a run leaves, or "
                "a LoRA for this model"
            ) from error


def _reward(settings: RewardConfig, checked: "Checked") -> None:
    words = None
    with checked.collected(f"reward.words = {settings.words}"):
        words = ControlWords.read(settings.words) if settings.words else None
    with checked.collected():
        disable_progress_bar()  # of the loading; the terminal has one display
        reward, prompts = ImageTextReward(settings.path), [each.prompt for each in checked.training]
        longest = max(words.positive + words.negative, key=len) if words else ""
        if cut := reward.cut([f"{longest}. {prompt}" if words else prompt for prompt in prompts]):
            checked.note(f"{cut} of {len(prompts)} prompts are longer than reward.path reads: it sees their beginning")
