"""A GPU that is only pretended: the real code runs on `cuda` tensors of any size that have no memory and no numbers.

What the code would need there is counted: the largest sum of the tensors that live at one time (add 2 to 4 GiB for
CUDA's context, workspaces and gaps). An operation that mixes devices is refused, as a GPU would. Whatever reads a
number from the GPU reads 0 or true. Tensors on the CPU are real, except for copies of more than `REAL_BYTES` from the
GPU.

Attention in bfloat16 is flash attention; in float32 it is the plain one, which holds the whole matrix.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

GPU, NOWHERE = torch.device("cuda:0"), torch.device("meta")
GIB = 2**30
REAL_BYTES = 2**20
PLAIN_ATTENTION = torch.nn.functional.scaled_dot_product_attention


class _OnGpu(FakeTensorMode):
    """C++ is told that pretended tensors are nowhere (`pretended_gpu`), and makes its own ones there: on the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == NOWHERE:
            kwargs["device"] = GPU
        return super().__torch_dispatch__(func, types, args, kwargs)


class PretendedGpu(TorchDispatchMode):
    """What happened on the pretended GPU. `peak`, `live`: bytes; `flops`: of multiplications and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.live = self.flops = 0
        self._fake = _OnGpu(allow_non_fake_inputs=True)
        self._counted: set[int] = set()

    def forget_peak(self) -> None:
        """The peak from now on."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, FakeTensor)]
        device = kwargs.get("device")
        if not given and (device is None or torch.device(device).type not in ("cuda", "meta")):
            return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return _number(given[0])
        with self._fake:
            made = func(*args, **kwargs)
        if counted := flop_registry.get(func.overloadpacket):
            self.flops += counted(*args, **kwargs, out_val=made)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        copied = func is torch.ops.aten._to_copy.default and made.device.type == "cpu"
        if copied and made.numel() * made.element_size() <= REAL_BYTES:
            return torch.zeros(made.shape, dtype=made.dtype)
        return made

    def _count(self, tensor: Tensor) -> None:
        if tensor.device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        if storage._cdata in self._counted:
            return
        size, key = storage.nbytes(), storage._cdata
        self._counted.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone() -> None:
            self._counted.discard(key)
            self.live -= size

        weakref.finalize(storage, gone)


def _number(tensor: Tensor) -> bool | int | float:
    if tensor.dtype == torch.bool:
        return True
    return 0.0 if tensor.dtype.is_floating_point else 0


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any) -> Any:
    if attn_mask is not None or query.dtype != torch.bfloat16 or not isinstance(query, FakeTensor):
        return PLAIN_ATTENTION(query, key, value, attn_mask=attn_mask, **options)
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module.to` and its like. torch's own swaps pretended tensors, which cannot be if something else holds one."""
    for child in module.children() if recurse else ():
        child._apply(change)
    tables: list[dict[str, Any]] = [module._parameters, module._buffers]
    for held in tables:
        for name, tensor in held.items():
            if tensor is None:
                continue
            changed = change(tensor.detach())
            if (changed.device, changed.dtype) != (tensor.device, tensor.dtype):
                wanted = tensor.requires_grad
                held[name] = nn.Parameter(changed, wanted) if isinstance(tensor, nn.Parameter) else changed
    return module


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Inside, the device `cuda` is pretended; what it held goes away with the tensors."""
    own: Callable[..., Any] = FakeTensor.__torch_dispatch__
    handlers, device_of = fake_tensor._DISPATCH_META_HANDLERS, torch.ops.prim.device.default
    handler = handlers[device_of]

    def dispatch(func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NOWHERE if func is device_of else own(func, types, args, kwargs or {})

    # Autograd asks the CUDA driver about streams of every device that it sees. Here is none.
    FakeTensor.__torch_dispatch__ = staticmethod(dispatch)  # type: ignore[method-assign]
    handlers[device_of] = lambda args: NOWHERE
    try:
        with (
            patch("torch.cuda._lazy_init", lambda: None),
            patch("torch.nn.Module._apply", _apply),
            patch("torch.nn.functional.scaled_dot_product_attention", _attention),
            PretendedGpu() as gpu,
        ):
            yield gpu
    finally:
        FakeTensor.__torch_dispatch__ = own  # type: ignore[method-assign]
        handlers[device_of] = handler
