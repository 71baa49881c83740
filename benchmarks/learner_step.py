"""What one optimizer step costs: transformer rows, seconds, FLOP utilisation, peak memory. For any bundle.

    python -m benchmarks.learner_step configs/miniature.yaml
    python -m benchmarks.learner_step configs/wan2.1-t2v-1.3b-8x80gb.yaml model.path=/models/Wan2.1-T2V-1.3B-Diffusers

The config says everything: bundle, dtype, size of the videos, pairs of a step (one worker does all of them here),
window, LoRA, checkpointing, GPU or not (`learner.gpus_per_worker`). Latents and prompt embeddings are random: the cost
does not depend on what is in them. Utilisation is against the best square matrix product of the same dtype, measured in
the same process on the same device: a share of what this machine does, not of a data sheet.
"""

import argparse
import json
import resource
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from buffers.records import Batch, Condition, EncodedCondition, Pair
from buffers.tensors import encode
from configs.load import load_config
from configs.schema import RunConfig
from learner.learner import Learner
from learner.objectives.dpo import Dpo
from policy.policy import VideoPolicy

MATRIX_SIZES = (512, 1024, 2048, 4096, 8192)
MATRIX_SECONDS = 0.3
"""A size is left out when the one before it took longer than this for one product."""


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, out_shape=None, **__: sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, query, key, value, *_, out_shape=None, **__: sdpa_backward_flop_count(grad, query, key, value)
    ),
}
"""torch's counter knows the attention kernels of GPUs, and counts a CPU's as nothing."""


@dataclass
class Counted:
    """Of one optimizer step. `rows` and `flops` by kind of pass: with a graph, and the reference's without."""

    rows_with_gradient: int = 0
    rows_without: int = 0
    forward_flops_of_a_row: float = 0.0
    executed_flops: float = 0.0


def random_batch(config: RunConfig, policy: VideoPolicy, *, step: int) -> Batch:
    """`learner.pairs_per_step` pairs of normal latents of the config's size, in the policy's dtype."""
    sampling, count = config.sampling, config.learner.pairs_per_step
    shape = policy.facts.latent_shape(sampling.num_frames, sampling.height, sampling.width)
    text_dim = int(next(iter(policy.transformers.values())).config["text_dim"])
    generator = torch.Generator().manual_seed(step)

    def tensor(*size: int) -> Any:
        return encode(torch.randn(size, generator=generator).to(policy.dtype))

    pairs = [
        Pair(f"pair{index}", "prompt", f"a{index}", f"b{index}", tensor(*shape), tensor(*shape), 0, "offline")
        for index in range(count)
    ]
    prompt = EncodedCondition(Condition("prompt", ""), tensor(config.model.max_text_tokens, text_dim))
    return Batch(step, tuple(pairs), {"prompt": prompt}, (0,) * count)


def count_step(learner: Learner, policy: VideoPolicy, batch: Batch) -> Counted:
    """One step under a FLOP counter (slow: never the one that is timed)."""
    counted, handles, flops_before = Counted(), [], 0
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)

    def before(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal flops_before
        flops_before = counter.get_total_flops()
        rows = len(kwargs["hidden_states"])
        if torch.is_grad_enabled():
            counted.rows_with_gradient += rows
        else:
            counted.rows_without += rows

    def after(_module: Any, _args: Any, kwargs: dict[str, Any], _output: Any) -> None:
        if not torch.is_grad_enabled():
            spent = counter.get_total_flops() - flops_before
            counted.forward_flops_of_a_row = spent / len(kwargs["hidden_states"])

    for transformer in policy.transformers.values():
        handles.append(transformer.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(transformer.register_forward_hook(after, with_kwargs=True))
    with counter:
        learner.step(batch)
    for handle in handles:
        handle.remove()
    counted.executed_flops = float(counter.get_total_flops())
    return counted


def matrix_rate(dtype: torch.dtype, device: torch.device) -> tuple[float, int]:
    """The best FLOP/s of square matrix products, and the size that reached it."""
    best, at = 0.0, 0
    for size in MATRIX_SIZES:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        once = _seconds(lambda a=a, b=b: a @ b, device)
        repeats = max(1, int(MATRIX_SECONDS / once))
        seconds = min(_seconds(lambda a=a, b=b: a @ b, device) for _ in range(repeats))
        if 2 * size**3 / seconds > best:
            best, at = 2 * size**3 / seconds, size
        if once > MATRIX_SECONDS:
            break
    return best, at


def _seconds(work: Any, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mib(device: torch.device) -> float:
    """Of the GPU's allocator, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(config: RunConfig, *, repeats: int) -> dict[str, Any]:
    """All figures of the config's step; the median of `repeats` timed steps after one that warms up."""
    device = torch.device("cuda" if config.learner.gpus_per_worker > 0 else "cpu")
    policy = VideoPolicy.load(
        config.model.path,
        dtype=config.model.dtype,
        device=device,
        lora=config.learner.lora,
        seed=config.seed,
        max_text_tokens=config.model.max_text_tokens,
    )
    learner = Learner(
        policy, config.learner, Dpo(config.learner.beta), sampling_steps=config.sampling.steps, seed=config.seed
    )
    learner.step(random_batch(config, policy, step=0))
    seconds = []
    for step in range(1, repeats + 1):
        batch = random_batch(config, policy, step=step)
        seconds.append(_seconds(lambda batch=batch: learner.step(batch), device))
        print(f"step {step} of {repeats}: {seconds[-1]:.2f} s", flush=True)
    memory = peak_memory_mib(device)
    counted = count_step(learner, policy, random_batch(config, policy, step=repeats + 1))
    median = sorted(seconds)[len(seconds) // 2]
    pair_timesteps = config.learner.pairs_per_step * config.learner.timesteps.count
    # What no implementation could leave out: each row once forward, and once back through the frozen products to the
    # adapters. Their own products, and what checkpointing does a second time, are in `executed_flops` alone.
    needed = counted.forward_flops_of_a_row * (counted.rows_without + 2 * counted.rows_with_gradient)
    rate, size = matrix_rate(policy.dtype, device)
    return {
        "bundle": config.model.path,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} thread",
        "dtype": config.model.dtype,
        "video": [config.sampling.num_frames, config.sampling.height, config.sampling.width],
        "pairs": config.learner.pairs_per_step,
        "timesteps": config.learner.timesteps.count,
        "gradient_checkpointing": config.learner.gradient_checkpointing,
        **asdict(counted),
        "seconds_of_a_step": median,
        "seconds_of_a_pair_timestep": median / pair_timesteps,
        "needed_flops": needed,
        "needed_flops_a_second": needed / median,
        "matrix_product_flops_a_second": rate,
        "matrix_size": size,
        "utilisation": needed / median / rate,
        "executed_utilisation": counted.executed_flops / median / rate,
        "peak_memory_mib": memory,
        "torch": torch.__version__,
    }


def main() -> None:
    """Print the figures; `--json FILE` keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU run")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures = measure(load_config(arguments.config, arguments.overrides), repeats=arguments.repeats)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):32} {f'{value:,.4g}' if isinstance(value, float) else value}")
    if arguments.json:
        with open(arguments.json, "w") as out:
            out.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
