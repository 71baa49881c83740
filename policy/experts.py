"""Where the base of each expert is. Of two experts only one works at a time: the other one can wait in CPU memory.

Adapters are small, and the optimizer's moments belong to them: they stay on the device.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class IdleOnCpu:
    """Keeps one expert's base on the device: the one that was asked for last. `switches`: how many were brought there.

    A base is frozen. So its copy in CPU memory, which is pinned if there is a GPU, stays as it is, and nothing is ever
    copied back.

    Example: `IdleOnCpu(policy.transformers, torch.device("cuda")).bring("transformer_2")`
    """

    def __init__(self, transformers: Mapping[str, nn.Module], device: torch.device) -> None:
        self.switches = 0
        self._device = device
        self._here: str | None = None
        self._homes = {expert: [*_base(transformer)] for expert, transformer in transformers.items()}
        for expert, transformer in transformers.items():
            self._put(expert, torch.device("cpu"))
            for name, adapter in transformer.named_parameters():
                if ".lora_" in name:
                    adapter.data = adapter.data.to(device)

    def bring(self, expert: str) -> None:
        """From now on that expert's base is on the device, and no other."""
        if expert == self._here:
            return
        if self._here is not None:
            self._put(self._here, torch.device("cpu"))
        self._put(expert, self._device)
        self._here = expert
        self.switches += 1

    def _put(self, expert: str, device: torch.device) -> None:
        for module, name, home in self._homes[expert]:
            tensor = home.to(device, non_blocking=True)
            is_parameter = name in module._parameters
            setattr(module, name, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)


def _base(transformer: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Every tensor of the base: the module that has it, its name there, and its copy in CPU memory."""
    for path, module in transformer.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own if ".lora_" not in path else ():
            home = tensor.detach().to("cpu")
            yield module, name, home.pin_memory() if torch.cuda.is_available() else home
