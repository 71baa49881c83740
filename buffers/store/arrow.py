"""Records <-> Arrow rows, schema version 4. Files from version 2 on are read, too.

A tensor is a struct of dtype, shape and bytes: Arrow has no bfloat16, and one segment holds videos of several sizes.
Reading copies no tensor: the arrays of a record are read-only views of the memory that the batch lies in.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa

from buffers.records import Anchor, Condition, EncodedCondition, Pair, Scores, TensorData, Verdict

SCHEMA_VERSION = 4
"""Goes up whenever an old reader would misread a new file. A newer version is refused."""

_SINCE = {"scores": 3, "frame_latents": 4, "frame_embeds": 4}
"""Column -> the first schema version that has it; all others are there since version 2."""

_VERSION_KEY, _KIND_KEY = b"apogee.schema_version", b"apogee.kind"

_OF_FIRST_FRAMES = ("first_frame", "frame_latents", "frame_embeds")

_NOTHING = TensorData("uint8", (0,), np.empty(0, np.uint8))
"""What a null row of a tensor column holds."""


TEXT, WHOLE, NUMBER, BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def _fields(kinds: Mapping[str, pa.DataType]) -> list[pa.Field]:
    """A column with `?` behind its name may be null."""
    return [pa.field(name.rstrip("?"), kind, nullable=name.endswith("?")) for name, kind in kinds.items()]


def _table(kind: str, kinds: Mapping[str, pa.DataType]) -> pa.Schema:
    metadata = {_VERSION_KEY: str(SCHEMA_VERSION).encode(), _KIND_KEY: kind.encode()}
    return pa.schema(_fields(kinds), metadata=metadata)


_TENSOR = pa.struct(_fields({"dtype": TEXT, "shape": pa.list_(WHOLE), "data": pa.large_binary()}))

_VERDICT = pa.struct(
    _fields(
        {"label": pa.int8(), "probabilities": pa.list_(NUMBER, 4), "label_mass": NUMBER, "agreed": BOOL}
        | {"first_shown": pa.int8(), "dropped?": TEXT, "domain": TEXT, "rubric_version": TEXT, "ranker_version": TEXT}
    )
)

_SCORES = pa.struct(_fields({"a": NUMBER, "b": NUMBER, "dropped?": TEXT}))

LATENTS = _table("latents", {"id": TEXT, "latents": _TENSOR})

CONDITIONINGS = _table(
    "conditionings",
    {"id": TEXT, "prompt": TEXT, "domain?": TEXT, "prompt_embeds": _TENSOR}
    | {f"{name}?": _TENSOR for name in _OF_FIRST_FRAMES},
)

PAIRS = _table(
    "pairs",
    {"id": TEXT, "condition_id": TEXT, "chosen_id": TEXT, "rejected_id": TEXT, "policy_version": WHOLE}
    | {"source": TEXT, "bytes": WHOLE, "verdict?": _VERDICT, "scores?": _SCORES},
)
"""`bytes`: size of the latents of both videos."""

ANCHORS = _table("anchors", {"id": TEXT, "condition_id": TEXT, "video_id": TEXT, "positive": BOOL})

VERDICTS = _table("verdicts", {"id": TEXT, "verdict?": _VERDICT})
"""Corrections: the newest verdict of a pair that was stored with another verdict."""

TABLES = {"latents": LATENTS, "conditionings": CONDITIONINGS, "pairs": PAIRS, "anchors": ANCHORS, "verdicts": VERDICTS}
"""What a store holds, by kind. A large payload has a batch of its own, which nothing copies."""


def too_new(found: int, *, where: str) -> ValueError:
    """What to raise if a newer Apogee wrote schema version `found`; `where` names the file."""
    return ValueError(f"{where} has schema version {found}, this Apogee reads up to {SCHEMA_VERSION}: use a newer one")


def check_schema(schema: pa.Schema, expected: pa.Schema, *, where: str) -> None:
    """Raises ValueError if a file's schema is newer than this code, or is not `expected`; `where` names the file."""
    metadata = schema.metadata or {}
    version = metadata.get(_VERSION_KEY, b"")
    if not version.isdigit():
        raise ValueError(f"{where} is no Apogee segment: its Arrow metadata has no {_VERSION_KEY.decode()}")
    if int(version) > SCHEMA_VERSION:
        raise too_new(int(version), where=where)
    fields = [field for field in expected if _SINCE.get(field.name, 2) <= int(version)]
    if not schema.equals(pa.schema(fields, {**expected.metadata, _VERSION_KEY: version}), check_metadata=True):
        raise ValueError(f"{where} does not have the columns of a {expected.metadata[_KIND_KEY].decode()} segment")


def latents_batch(videos: Mapping[str, TensorData]) -> pa.RecordBatch:
    """A row per video; a single one is not copied. Raises ValueError if bytes and shape of a video disagree."""
    latents = _tensor_column({f"latents {id_}": video for id_, video in videos.items()})
    return pa.RecordBatch.from_arrays([pa.array(videos, pa.string()), latents], schema=LATENTS)


def conditionings_batch(conditionings: Sequence[EncodedCondition]) -> pa.RecordBatch:
    """A row per condition; a single one is not copied. Raises ValueError if bytes and shape of a tensor disagree."""
    conditions = [vars(conditioning.condition) for conditioning in conditionings]
    columns = [pa.array([each[name] for each in conditions], pa.string()) for name in ("id", "prompt", "domain")]
    for name in ("prompt_embeds", *_OF_FIRST_FRAMES):
        columns.append(_tensor_column({f"condition {c.condition_id}, {name}": getattr(c, name) for c in conditionings}))
    return pa.RecordBatch.from_arrays(columns, schema=CONDITIONINGS)


def pairs_batch(pairs: Sequence[Pair]) -> pa.RecordBatch:
    """The facts of pairs, a row each, without their latents."""
    rows = []
    for pair in pairs:
        evidence = {"verdict": pair.verdict and vars(pair.verdict), "scores": pair.scores and vars(pair.scores)}
        rows.append(vars(pair) | evidence | {"bytes": pair.bytes})
    return pa.RecordBatch.from_pylist(rows, schema=PAIRS)


def anchors_batch(anchors: Sequence[Anchor]) -> pa.RecordBatch:
    """The facts of anchors, a row each, without their latents."""
    return pa.RecordBatch.from_pylist([vars(anchor) for anchor in anchors], schema=ANCHORS)


def verdicts_batch(verdicts: Mapping[str, Verdict]) -> pa.RecordBatch:
    """Pair id -> its new verdict."""
    rows = [{"id": id_, "verdict": vars(verdict)} for id_, verdict in verdicts.items()]
    return pa.RecordBatch.from_pylist(rows, schema=VERDICTS)


def read_latents(row: pa.RecordBatch) -> TensorData:
    """The tensor of a batch of one row; a view of the batch."""
    return _tensor(row.column("latents"))


def read_conditioning(row: pa.RecordBatch) -> EncodedCondition:
    """The record of a batch of one row; its tensors are views of the batch."""
    id_, prompt, domain = (row.column(name)[0].as_py() for name in ("id", "prompt", "domain"))
    columns = {name: row.column(name) for name in _OF_FIRST_FRAMES if name in row.schema.names}
    held = {name: _tensor(column) for name, column in columns.items() if column.is_valid()[0].as_py()}
    return EncodedCondition(Condition(id_, prompt, domain), _tensor(row.column("prompt_embeds")), **held)


def read_facts(row: pa.RecordBatch) -> dict[str, Any]:
    """Field -> value of a batch of one row of pairs, anchors or verdicts; evidence is a record or None."""
    (facts,) = row.drop_columns(["bytes"] if "bytes" in row.schema.names else []).to_pylist()
    if verdict := facts.get("verdict"):
        facts["verdict"] = Verdict(**{**verdict, "probabilities": tuple(verdict["probabilities"])})
    if scores := facts.get("scores"):
        facts["scores"] = Scores(**scores)
    return facts


def _tensor_column(tensors: Mapping[str, TensorData | None]) -> pa.Array:
    """`tensors`: what each is, in words -> the tensor or None."""
    for what, tensor in tensors.items():
        if tensor is None:
            continue
        elements = math.prod(tensor.shape)
        # Only torch knows the size of an element. Bytes that do not split evenly over the elements are a mix-up.
        if tensor.data.dtype != np.uint8 or (tensor.nbytes % elements if elements else tensor.nbytes):
            raise ValueError(
                f"{what}: {tensor.nbytes} bytes of {tensor.data.dtype} cannot be a {tensor.dtype} tensor of shape "
                f"{tensor.shape}; expected its raw bytes as uint8 (buffers.tensors.encode)"
            )
    some = [tensor or _NOTHING for tensor in tensors.values()]
    data = np.ascontiguousarray(some[0].data) if len(some) == 1 else np.concatenate([t.data for t in some])
    offsets = np.cumsum([0, *(tensor.nbytes for tensor in some)], dtype=np.int64)
    dtypes = pa.array([tensor.dtype for tensor in some], type=pa.string())
    shapes = pa.array([list(tensor.shape) for tensor in some], type=pa.list_(pa.int64()))
    payloads = pa.Array.from_buffers(pa.large_binary(), len(some), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    is_null = pa.array([tensor is None for tensor in tensors.values()])
    return pa.StructArray.from_arrays([dtypes, shapes, payloads], fields=list(_TENSOR), mask=is_null)


def _tensor(column: pa.Array) -> TensorData:
    """The tensor of an array of one row. Arrow's own binary scalar would be a copy."""
    parts = cast(pa.StructArray, column)
    payload = parts.field("data")
    _, offsets, values = payload.buffers()
    start, end = np.frombuffer(offsets, dtype=np.int64)[payload.offset : payload.offset + 2]
    data = np.frombuffer(values or b"", dtype=np.uint8)[start:end]
    data.flags.writeable = False  # Arrow calls a read-only mapping mutable; writing there would kill the process.
    return TensorData(parts.field("dtype")[0].as_py(), tuple(parts.field("shape")[0].as_py()), data)
