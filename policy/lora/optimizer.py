"""AdamW over the float32 masters of a LoRA adapter, its gradient in one flat tensor; for policy and judge."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from configs.sections import Training

_MOMENTS = ("exp_avg", "exp_avg_sq")


class LoraOptimizer:
    """One AdamW over named parameters; only those with an attached gradient move.

    A flat gradient is what ranks sum in one reduction. Use: `flat = torch.zeros(optimizer.size(names))`,
    `optimizer.attach(names, flat)`, backward (which adds into `flat`), reduce `flat`, `optimizer.step()`.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: Training) -> None:
        self.parameters, self._config = dict(parameters), config
        self._adamw = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def size(self, names: Iterable[str]) -> int:
        """How many numbers the flat gradient of these parameters has."""
        return sum(self.parameters[name].numel() for name in names)

    def attach(self, names: Iterable[str], flat: Tensor) -> None:
        """The gradients of these parameters become views of `flat`, float32 `[size(names)]`, in their order."""
        offset = 0
        for name in names:
            parameter = self.parameters[name]
            parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()

    def clear(self) -> None:
        """No parameter has a gradient. AdamW would move a parameter with a gradient of zeros by momentum alone."""
        self._adamw.zero_grad(set_to_none=True)

    def step(self, *, rate_factor: float = 1.0) -> float:
        """Clips the attached gradient, steps at `rate_factor` times the learning rate, and clears.

        Returns the gradient's norm before clipping. Raises FloatingPointError if it is not finite; no parameter and no
        moment has changed then, and the gradients are cleared too.
        """
        try:
            moving = [parameter for parameter in self.parameters.values() if parameter.grad is not None]
            norm = nn.utils.clip_grad_norm_(moving, self._config.max_grad_norm)
            if not norm.isfinite():
                raise FloatingPointError(f"the gradient is not finite: gradient norm {float(norm)}")
            for group in self._adamw.param_groups:
                group["lr"] = self._config.learning_rate * rate_factor
            self._adamw.step()
            return float(norm)
        finally:
            self.clear()

    def state(self) -> dict[str, Tensor]:
        """A copy on the CPU: `step/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME` of every parameter ever stepped."""
        return {
            f"{slot}/{name}": self._adamw.state[parameter][slot].detach().to("cpu", copy=True)
            for name, parameter in self.parameters.items()
            if parameter in self._adamw.state
            for slot in ("step", *_MOMENTS)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state`; raises ValueError, before any change, if it names a parameter that is not here."""
        names = {key.split("/", 1)[1] for key in state}
        if unknown := sorted(names - self.parameters.keys()):
            raise ValueError(f"the checkpoint's optimizer has {unknown[0]}, the adapter has no such parameter")
        self._adamw.state.clear()
        for name in names:
            parameter = self.parameters[name]
            moments = {slot: state[f"{slot}/{name}"].to(parameter, copy=True) for slot in _MOMENTS}
            self._adamw.state[parameter] = {"step": state[f"step/{name}"].clone(), **moments}
