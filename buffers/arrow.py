"""Records <-> Arrow rows, schema version 1. One row is one record batch: a pair is read without its neighbours.

A tensor is a struct of dtype, shape and bytes: Arrow has no bfloat16, and videos of several sizes lie side by side.
Reading copies no tensor: the arrays of a record are read-only views of the memory that the batch lies in.
"""

from typing import Any, cast

import numpy as np
import pyarrow as pa

from buffers.records import Conditioning, Pair, TensorData, Verdict

SCHEMA_VERSION = 1
"""Goes up whenever an old reader would misread a new file. A newer version is refused, never guessed at."""

_VERSION_KEY, _KIND_KEY = b"apogee.schema_version", b"apogee.kind"


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_TENSOR = pa.struct(
    [
        _required("dtype", pa.string()),
        _required("shape", pa.list_(pa.int64())),
        _required("data", pa.large_binary()),
    ]
)

_VERDICT = pa.struct(
    [
        _required("label", pa.int8()),
        _required("probabilities", pa.list_(pa.float64(), 4)),
        _required("label_mass", pa.float64()),
        _required("agreed", pa.bool_()),
        _required("first_shown", pa.int8()),
        pa.field("dropped", pa.string()),
        _required("domain", pa.string()),
        _required("rubric_version", pa.string()),
        _required("ranker_version", pa.string()),
    ]
)


def _metadata(kind: str) -> dict[bytes, bytes]:
    return {_VERSION_KEY: str(SCHEMA_VERSION).encode(), _KIND_KEY: kind.encode()}


PAIRS = pa.schema(
    [
        _required("id", pa.string()),
        _required("condition_id", pa.string()),
        _required("chosen", _TENSOR),
        _required("rejected", _TENSOR),
        _required("chosen_seed", pa.int64()),
        _required("rejected_seed", pa.int64()),
        _required("policy_version", pa.int64()),
        _required("source", pa.string()),
        pa.field("verdict", _VERDICT),
    ],
    metadata=_metadata("pairs"),
)
"""One row per pair."""

CONDITIONINGS = pa.schema(
    [_required("condition_id", pa.string()), _required("prompt_embeds", _TENSOR)],
    metadata=_metadata("conditionings"),
)
"""One row per condition."""


def check_version(version: int, *, where: str) -> None:
    """Raises ValueError if `version` was written by a newer Apogee; `where` names the file."""
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{where} has schema version {version}, this Apogee reads up to {SCHEMA_VERSION}: use a newer Apogee"
        )


def check_schema(schema: pa.Schema, expected: pa.Schema, *, where: str) -> None:
    """Raises ValueError if a file's schema is newer than this code, or is not `expected`; `where` names the file."""
    metadata = schema.metadata or {}
    version = metadata.get(_VERSION_KEY, b"")
    if not version.isdigit():
        raise ValueError(f"{where} is no Apogee segment: its Arrow metadata has no {_VERSION_KEY.decode()}")
    check_version(int(version), where=where)
    if not schema.equals(expected, check_metadata=True):
        raise ValueError(f"{where} does not have the columns of a {expected.metadata[_KIND_KEY].decode()} segment")


def pair_row(pair: Pair) -> pa.RecordBatch:
    """The pair as a batch of one row; its latents are not copied. Raises ValueError if bytes and shape disagree."""
    verdict = None if pair.verdict is None else {name: getattr(pair.verdict, name) for name in _VERDICT.names}
    columns = [
        _column(PAIRS, "id", pair.id),
        _column(PAIRS, "condition_id", pair.condition_id),
        _tensor_column(pair.chosen, f"pair {pair.id}, chosen"),
        _tensor_column(pair.rejected, f"pair {pair.id}, rejected"),
        _column(PAIRS, "chosen_seed", pair.chosen_seed),
        _column(PAIRS, "rejected_seed", pair.rejected_seed),
        _column(PAIRS, "policy_version", pair.policy_version),
        _column(PAIRS, "source", pair.source),
        _column(PAIRS, "verdict", verdict),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=PAIRS)


def row_pair(row: pa.RecordBatch) -> Pair:
    """The pair of a batch of one row; its latents are views of the batch."""
    verdict = row.column("verdict")[0].as_py()
    return Pair(
        id=row.column("id")[0].as_py(),
        condition_id=row.column("condition_id")[0].as_py(),
        chosen=_tensor(row.column("chosen")),
        rejected=_tensor(row.column("rejected")),
        chosen_seed=row.column("chosen_seed")[0].as_py(),
        rejected_seed=row.column("rejected_seed")[0].as_py(),
        policy_version=row.column("policy_version")[0].as_py(),
        source=row.column("source")[0].as_py(),
        verdict=None if verdict is None else _verdict(verdict),
    )


def conditioning_row(conditioning: Conditioning) -> pa.RecordBatch:
    """The conditioning as a batch of one row, not copied. Raises ValueError if bytes and shape disagree."""
    columns = [
        _column(CONDITIONINGS, "condition_id", conditioning.condition_id),
        _tensor_column(conditioning.prompt_embeds, f"condition {conditioning.condition_id}, prompt_embeds"),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=CONDITIONINGS)


def row_conditioning(row: pa.RecordBatch) -> Conditioning:
    """The conditioning of a batch of one row; its embeddings are views of the batch."""
    return Conditioning(row.column("condition_id")[0].as_py(), _tensor(row.column("prompt_embeds")))


def _column(schema: pa.Schema, name: str, value: object) -> pa.Array:
    return pa.array([value], type=schema.field(name).type)


def _tensor_column(tensor: TensorData, what: str) -> pa.Array:
    elements = int(np.prod(tensor.shape, dtype=np.int64))
    # The itemsize is torch's to know; that the bytes split evenly over the elements catches a mix-up before it is kept.
    if tensor.data.dtype != np.uint8 or (tensor.nbytes % elements if elements else tensor.nbytes):
        raise ValueError(
            f"{what}: {tensor.nbytes} bytes of {tensor.data.dtype} cannot be a {tensor.dtype} tensor of shape "
            f"{tensor.shape}; expected its raw bytes as uint8 (buffers.tensors.encode)"
        )
    data = pa.py_buffer(np.ascontiguousarray(tensor.data))
    offsets = pa.py_buffer(np.array([0, tensor.nbytes], dtype=np.int64))
    return pa.StructArray.from_arrays(
        [
            pa.array([tensor.dtype], type=pa.string()),
            pa.array([list(tensor.shape)], type=pa.list_(pa.int64())),
            pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data]),
        ],
        fields=list(_TENSOR),
    )


def _tensor(column: pa.Array) -> TensorData:
    parts = cast(pa.StructArray, column)
    data = np.frombuffer(cast(Any, parts.field("data")[0]).as_buffer(), dtype=np.uint8)
    data.flags.writeable = False  # Arrow calls a read-only mapping mutable; writing there would kill the process.
    return TensorData(parts.field("dtype")[0].as_py(), tuple(parts.field("shape")[0].as_py()), data)


def _verdict(values: dict[str, Any]) -> Verdict:
    return Verdict(**{**values, "probabilities": tuple(values["probabilities"])})
