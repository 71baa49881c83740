import dataclasses

import numpy as np
import pytest
import torch

from buffers.records import TensorData
from buffers.tensors import checksum, decode, encode


def test_every_bfloat16_bit_pattern_comes_back():
    """All 65536 of them, NaNs with their payloads, signed zeros and subnormals included."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    record = encode(bits.view(torch.bfloat16).reshape(256, 256))
    assert (record.dtype, record.shape, record.nbytes) == ("bfloat16", (256, 256), 2**17)
    assert np.array_equal(record.data.view(np.int16), bits.numpy())
    back = decode(record)
    assert back.dtype == torch.bfloat16
    assert torch.equal(back.view(torch.int16).reshape(-1), bits)


def test_bfloat16_bytes_are_the_upper_half_of_float32():
    assert encode(torch.tensor([1.0, -2.0], dtype=torch.bfloat16)).data.tolist() == [0x80, 0x3F, 0x00, 0xC0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_every_dtype_and_shape_comes_back(dtype, shape):
    tensor = (torch.rand(shape) * 5).to(dtype)
    back = decode(encode(tensor))
    assert back.dtype == dtype and back.shape == tensor.shape and torch.equal(back, tensor)


def test_a_view_is_encoded_as_what_it_shows():
    tensor = torch.arange(6, dtype=torch.int32).reshape(2, 3).T
    assert encode(tensor).data.view(np.int32).tolist() == [0, 3, 1, 4, 2, 5]


def test_decoding_copies():
    record = encode(torch.zeros(4))
    decode(record).fill_(1.0)
    assert not record.data.any()


def test_bytes_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match=r"bfloat16 tensor of shape \(3,\) has 6 bytes, the record has 8"):
        decode(TensorData("bfloat16", (3,), np.zeros(8, np.uint8)))


ADAPTER = {
    "transformer.a": encode(torch.tensor([1.0, 2.0])),
    "transformer.b": encode(torch.tensor([[3.0]])),
    "transformer_2.a": encode(torch.tensor([4.0, 5.0])),
}


def changed(name: str, **values) -> dict[str, TensorData]:
    return {**ADAPTER, name: dataclasses.replace(ADAPTER[name], **values)}


def swapped(one: str, other: str) -> dict[str, TensorData]:
    return {**ADAPTER, one: ADAPTER[other], other: ADAPTER[one]}


def flipped(position: int) -> np.ndarray:
    data = ADAPTER["transformer.a"].data.copy()
    data[position] ^= 1
    return data


@pytest.mark.parametrize(
    "other",
    [
        *(changed("transformer.a", data=flipped(position)) for position in (0, 3, 7)),
        changed("transformer.a", shape=(2, 1)),
        changed("transformer.a", dtype="int32"),
        {name: tensor for name, tensor in ADAPTER.items() if name != "transformer.b"},
        swapped("transformer.a", "transformer.b"),
        swapped("transformer.a", "transformer_2.a"),
        {name: tensor for name, tensor in ADAPTER.items() if name.startswith("transformer.")},
    ],
)
def test_the_checksum_sees_every_change(other):
    assert checksum(other) != checksum(ADAPTER)


def test_the_checksum_does_not_depend_on_order_or_on_where_the_bytes_lie():
    backwards = dict(reversed(ADAPTER.items()))
    assert list(backwards) != list(ADAPTER)
    assert checksum(backwards) == checksum(ADAPTER)
    apart = changed("transformer.a", data=np.repeat(ADAPTER["transformer.a"].data, 2)[::2])
    assert checksum(apart) == checksum(ADAPTER)
