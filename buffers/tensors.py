"""torch tensors <-> `TensorData`, bit for bit, and the checksum that a weight swap is checked against."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch

from buffers.records import Condition, EncodedCondition, Snapshot, TensorData


def encode(tensor: torch.Tensor) -> TensorData:
    """The tensor's bytes; bf16 and every other dtype alike. Any device, any shape."""
    flat = tensor.detach().cpu().contiguous()
    name = str(flat.dtype).removeprefix("torch.")
    data = flat.reshape(-1).view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    return TensorData(name, tuple(flat.shape), data)


def decode(tensor: TensorData) -> torch.Tensor:
    """A CPU tensor, copied: the record's bytes may be a read-only view of shared memory.

    Raises ValueError if the byte count does not fit the dtype and shape.
    """
    dtype = getattr(torch, tensor.dtype)
    wanted = int(np.prod(tensor.shape, dtype=np.int64)) * dtype.itemsize
    if tensor.nbytes != wanted:
        raise ValueError(
            f"a {tensor.dtype} tensor of shape {tensor.shape} has {wanted} bytes, the record has {tensor.nbytes}"
        )
    if not wanted:
        return torch.empty(tensor.shape, dtype=dtype)  # torch cannot view no bytes as another dtype.
    return torch.from_numpy(np.array(tensor.data)).view(dtype).reshape(tensor.shape)


def encoded_condition(
    condition: Condition, row: Mapping[str, torch.Tensor], first_frame: np.ndarray | None = None
) -> EncodedCondition:
    """The record of a condition; `row`: what the model takes of it, by name; `first_frame`: uint8 pixels."""
    picture = encode(torch.from_numpy(first_frame.copy())) if first_frame is not None else None
    return EncodedCondition(condition, first_frame=picture, **{name: encode(tensor) for name, tensor in row.items()})


def decoded_condition(stored: EncodedCondition) -> dict[str, torch.Tensor]:
    """What the model takes of a condition, by name."""
    held = {name: getattr(stored, name) for name in ("prompt_embeds", "frame_latents", "frame_embeds")}
    return {name: decode(tensor) for name, tensor in held.items() if tensor is not None}


def checksum(adapter: Mapping[str, TensorData]) -> str:
    """sha256 over parameter name, dtype, shape and bytes, in the order of the names; hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(adapter.items()):
        digest.update(f"{name}:{tensor.dtype}:{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor.data).data)
    return digest.hexdigest()


def snapshot_of(version: int, adapter: Mapping[str, torch.Tensor]) -> Snapshot:
    """The adapter as bytes, with the checksum that its receivers must answer with."""
    held = {name: encode(tensor) for name, tensor in adapter.items()}
    return Snapshot(version, held, checksum(held))
