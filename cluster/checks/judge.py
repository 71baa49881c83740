"""Whether the judge can be served, and whether its context holds a question. Reads small files, no torch."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from buffers.records import Condition
from cluster.checks.plan import sizes_of
from configs.schema import RunConfig
from configs.sections import RankerConfig
from ranker.judges.adapter_files import check_adapters, named_adapters
from ranker.judges.checkpoint import check_checkpoint, check_descriptions, longest_prompt


def check_judge(config: RankerConfig) -> None:
    """Raises FileNotFoundError or ValueError unless the checkpoint and every adapter of it can be served."""
    check_checkpoint(Path(config.path))
    check_adapters(named_adapters(config.adapters), Path(config.path), key="ranker.adapters")


def check_questions(config: RunConfig, conditions: Sequence[Condition]) -> None:
    """Raises ValueError if a question about two videos of a condition is longer than `ranker.max_model_len`."""
    ranker, sampling = config.ranker, config.sampling
    frames, pixels = min(ranker.frames, sampling.num_frames), ranker.max_pixels_per_video
    of = partial(longest_prompt, Path(ranker.path), fps=sampling.fps, framed=any(each.picture for each in conditions))
    sizes = sizes_of(sampling, conditions)
    tokens = max(of(frames=frames, height=height, width=width, max_pixels_per_video=pixels) for height, width in sizes)
    if tokens > ranker.max_model_len:
        raise ValueError(
            f"ranker.max_model_len = {ranker.max_model_len}: a question about two videos of this size takes up to "
            f"{tokens} tokens; raise it, or lower ranker.frames or ranker.max_pixels_per_video"
        )


def check_prompts(config: RankerConfig, conditions: Sequence[Condition]) -> None:
    """Raises ValueError if a prompt without a domain is too long to ask the judge which one fits."""
    unnamed = (condition.prompt for condition in conditions if condition.domain is None)
    check_descriptions(Path(config.path), unnamed, tokens=config.max_model_len)
