"""LoRA fine-tuning of the judge: the log-probability of the right label, after the prompt that is served.

A plain class that knows of ranks only that its gradient is summed by a callable that it is given (`learner/learner.py`
works alike). The loss is taken over the full vocabulary, as the verdict is read: mass outside the labels costs, too.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from buffers.labels import LABELS_OF, choice_of
from configs.ranker import RankerTrainingConfig
from policy.lora.optimizer import LoraOptimizer
from policy.weight_files import load_whole
from ranker.judges.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX
from ranker.questions import label_ids, model_inputs
from ranker.training.examples import Example

FIGURES = ("loss", "accuracy", "better_named", "label_mass")
"""Means over the global batch: the likeliest label is a right one; it names the better video; mass on the four."""

OPTIMIZER, POSITION = "optimizer.safetensors", "finetune.json"


class Finetune:
    """Holds the checkpoint with its adapter, the optimizer and the number of steps taken.

    `reduce` sums a flat float32 tensor over the ranks in place. Raises ValueError if `lora.targets` names a layer
    that the language model lacks or the tokenizer splits a label.
    """

    def __init__(
        self,
        config: RankerTrainingConfig,
        *,
        device: str | torch.device = "cpu",
        reduce: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.config = config
        self.steps = 0
        self._device = torch.device(device)
        self._reduce = reduce
        self._processor = AutoProcessor.from_pretrained(config.path)
        self._labels = label_ids(self._processor.tokenizer)
        kind, dtype = Qwen3VLForConditionalGeneration, getattr(torch, config.dtype)
        self.model: Any = load_whole(kind, Path(config.path), dtype=dtype).to(self._device)
        self._add_adapter()
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        self._optimizer = LoraOptimizer(trained, config)

    def step(self, examples: Sequence[Example]) -> dict[str, float]:
        """One AdamW step on this rank's share of the examples; figures are of the global batch.

        Raises FloatingPointError, on every rank, if the loss or the gradient is not finite; nothing has changed.
        """
        config = self.config
        names = list(self._optimizer.parameters)
        size = self._optimizer.size(names)
        flat = torch.zeros(size + len(FIGURES), device=self._device)
        self._optimizer.attach(names, flat[:size])
        for start in range(0, len(examples), config.questions_per_microbatch):
            loss, figures = self._loss(examples[start : start + config.questions_per_microbatch])
            (loss / (2 * config.pairs_per_step)).backward()
            flat[size:] += figures / (2 * config.pairs_per_step)
        if self._reduce is not None:
            self._reduce(flat)
        figures = dict(zip(FIGURES, flat[size:].tolist(), strict=True))
        try:
            if not math.isfinite(figures["loss"]):
                raise FloatingPointError("the loss is not finite")
            rate_factor = schedule(self.steps, warmup=config.warmup_steps, steps=config.steps)
            norm = self._optimizer.step(rate_factor=rate_factor)
        except FloatingPointError as error:
            self._optimizer.clear()
            raise FloatingPointError(
                f"step {self.steps}: loss {figures['loss']}, {error}; lower learning_rate. The adapter is as it was"
            ) from error
        self.steps += 1
        return {"step": float(self.steps), **figures, "grad_norm": norm}

    def save(self, folder: Path) -> None:
        """The adapter as PEFT writes it, which vLLM serves as it is, and what `restore` goes on from."""
        self.model.save_pretrained(folder)
        # An adapter is carried to other machines, where this one's path to the checkpoint says nothing.
        settings = json.loads((folder / ADAPTER_CONFIG).read_text())
        settings["base_model_name_or_path"] = Path(self.config.path).resolve().name
        (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
        save_file(self._optimizer.state(), folder / OPTIMIZER)
        (folder / POSITION).write_text(json.dumps({"steps": self.steps, "seed": self.config.seed}))

    def restore(self, folder: Path) -> None:
        """Goes on from what `save` wrote, as if never stopped. Raises ValueError if it is another run's."""
        position = json.loads((folder / POSITION).read_text())
        if position["seed"] != self.config.seed:
            raise ValueError(f"{folder} was made with seed {position['seed']}, this run has seed {self.config.seed}")
        self.load_adapter(folder)
        self._optimizer.load(load_file(folder / OPTIMIZER))
        self.steps = position["steps"]

    def load_adapter(self, folder: Path) -> None:
        """Takes the weights of an adapter as `save` wrote it. Raises ValueError if it is another one's."""
        adapter = load_file(folder / ADAPTER_WEIGHTS)
        named = self._optimizer.parameters.items()
        saved = {f"{PREFIX}{name.replace('.default.', '.')}": parameter for name, parameter in named}
        if saved.keys() != adapter.keys():
            raise ValueError(f"{folder / ADAPTER_WEIGHTS} is of another checkpoint or other lora.targets")
        with torch.no_grad():
            for name, parameter in saved.items():
                parameter.copy_(adapter[name])

    def _add_adapter(self) -> None:
        config = self.config
        check_targets(self.model, config.lora.targets)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            targets = rf".*\.language_model\..*\.({'|'.join(config.lora.targets)})"
            self.model.add_adapter(LoraConfig(r=config.lora.rank, lora_alpha=config.lora.alpha, target_modules=targets))
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.model.train()

    def _loss(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """The summed loss, and the sums of FIGURES."""
        questions, pixels = [example.question for example in examples], self.config.max_pixels_per_video
        inputs = model_inputs(self._processor, questions, max_pixels_per_video=pixels)
        inputs = {name: value.to(self._device) for name, value in inputs.items() if isinstance(value, Tensor)}
        logits = self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float()
        labels = functional.log_softmax(logits, dim=-1)[:, self._labels]  # [questions, 4]
        right = torch.zeros_like(labels, dtype=torch.bool)
        better = torch.zeros_like(right)
        for row, example in enumerate(examples):
            right[row, [label - 1 for label in example.right]] = True
            better[row, [label - 1 for label in LABELS_OF[choice_of(example.right[0])]]] = True
        losses = -labels.masked_fill(~right, -math.inf).logsumexp(-1)
        with torch.no_grad():
            said = labels.argmax(-1, keepdim=True)
            named = labels.masked_fill(~better, -math.inf).logsumexp(-1)
            other = labels.masked_fill(better, -math.inf).logsumexp(-1)
            columns = (losses, right.gather(-1, said)[:, 0].float(), (named > other).float(), labels.exp().sum(-1))
            figures = torch.stack(columns, dim=-1).sum(0)
        return losses.sum(), figures


def check_targets(model: torch.nn.Module, targets: Sequence[str]) -> None:
    """Raises ValueError if a target is no linear layer of the language model; it may be on the meta device."""
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    inside = {name.rsplit(".", 1)[-1] for name in names if ".language_model." in name}
    if unknown := sorted(set(targets) - inside):
        raise ValueError(f"lora.targets: the language model has no {unknown[0]!r}; it has {', '.join(sorted(inside))}")


def schedule(step: int, *, warmup: int, steps: int) -> float:
    """Share of the learning rate at a step: up in a line, then down to zero along a cosine."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
