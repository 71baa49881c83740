"""What only the model's own classes can tell, without its weights: timesteps, adapter, the adapter to start from."""

from collections.abc import Iterator

from safetensors import SafetensorError

from configs.schema import RunConfig
from learner.timesteps import check_timesteps
from policy.bundle import BundleFacts
from policy.lora.adapters import add_adapters, check_lora
from policy.policy import skeleton


def check_model(config: RunConfig, facts: BundleFacts) -> Iterator[str]:
    """A sentence per problem: the key or file, the value, and what would be right."""
    transformers, scheduler = skeleton(facts)
    for stage in config.by_stage():
        try:
            timesteps, steps = stage.learner.timesteps, stage.sampling.steps
            check_timesteps(timesteps, scheduler, steps, boundary_ratio=facts.boundary_ratio)
        except ValueError as error:
            yield str(error)
    try:
        add_adapters(transformers, config.learner.lora, seed=config.seed)
    except ValueError as error:
        yield str(error)
        return
    try:
        if config.start_from is not None:
            check_lora(config.start_from, transformers)
    except (ValueError, OSError, SafetensorError) as error:
        yield f"start_from = {config.start_from}: {error}; name a folder such as the `adapter` that a run leaves"
