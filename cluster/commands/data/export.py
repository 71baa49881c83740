"""`apogee data export STORE --out FOLDER`: videos to look at, exact tensors, and a manifest that ingest reads back.

manifest.parquet      a row for each pair, anchor and prompt; written last
made_for.json         whose latents and embeddings the exact tensors are
videos/  exact/       each video once, as mp4 and as latents
conditions/  first_frames/
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from actors.exporter import CONDITIONS, EXACT, FIRST_FRAMES, VIDEOS, Exporter, exported
from buffers.people.entries import ANCHOR, PAIR
from buffers.records import Conditioning, Judged
from buffers.store.catalog import StoredPair
from buffers.store.encoded_by import ENCODED_BY
from buffers.store.pair_store import PairStore
from cluster.checks.bundle import encoded_by
from cluster.monitor.progress import Progress
from cluster.on_ray.pool import pool
from configs.schema import RunConfig
from media.whole import whole_file
from policy.bundle import check_bundle

MANIFEST = "manifest.parquet"
AT_ONCE, VIDEOS_A_CALL = 256, 16

_NO_TEXT: dict[str, pa.DataType] = {
    "label": pa.int8(),
    "probabilities": pa.list_(pa.float64()),
    "policy_version": pa.int64(),
    "label_mass": pa.float64(),
    "agreed": pa.bool_(),
    "first_shown": pa.int8(),
}
SCHEMA = pa.schema(
    [(name, _NO_TEXT.get(name, pa.string())) for name in dict.fromkeys((*PAIR, *ANCHOR)) if name != "annotator"]
)


def export(config: RunConfig, where: str, out: Path) -> Path:
    """Writes what is not there yet and returns the manifest; the same command goes on after a stop.

    Raises ValueError, before anything is written, if the store is empty or was made with another bundle than the
    config's, or `out` holds an export of another.
    """
    facts = check_bundle(config.model.path)
    store = PairStore(where, write=False, encoded_by=encoded_by(facts, max_text_tokens=config.model.max_text_tokens))
    if not store.catalog.count("conditionings"):
        raise ValueError(f"{where} holds nothing to export")
    out = out.resolve()
    belongs = json.dumps(store.encoded_by, indent=1)
    if (out / ENCODED_BY).exists() and (out / ENCODED_BY).read_text() != belongs:
        raise ValueError(f"{out} holds an export of a store that was made with another bundle; give another folder")
    for folder in (VIDEOS, EXACT, CONDITIONS, FIRST_FRAMES):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / ENCODED_BY).write_text(belongs)
    fps = config.sampling.fps
    with Progress(store.catalog.count("latents"), unit="video") as progress:
        progress.phase("decoding")
        here = where if "://" in where else str(Path(where).resolve())
        model = config.model.model_copy(update={"path": str(Path(config.model.path).resolve())})
        given = (model, here, out)
        with TemporaryDirectory() as logs, pool(config, Exporter, *given, fps=fps, logs=Path(logs)) as exporters:
            _write_all(exporters, store, progress)
        progress.phase("writing the manifest")
        with whole_file(out / MANIFEST) as unfinished, pq.ParquetWriter(unfinished, SCHEMA) as writer:
            for rows in _portions(manifest_rows(store)):
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    store.close()
    return out / MANIFEST


def manifest_rows(store: PairStore) -> Iterator[dict[str, Any]]:
    """As `buffers.people.entries` reads them: pairs in the order they were stored in, anchors, the other prompts."""
    used: set[str] = set()
    for pairs in _portions(store.catalog.pairs()):
        used |= {pair.condition_id for pair in pairs}
        judged = store.judged([pair.id for pair in pairs])
        conditions = store.conditionings({pair.condition_id for pair in pairs})
        yield from (_pair_row(pair, judged[pair.id], conditions[pair.condition_id]) for pair in pairs)
    for ids in _portions(store.catalog.ids("anchors")):
        anchors = store.anchors(ids)
        used |= {anchor.condition_id for anchor in anchors}
        conditions = store.conditionings({anchor.condition_id for anchor in anchors})
        for anchor in anchors:
            yield {
                **_condition_columns(conditions[anchor.condition_id]),
                **_video_columns("video", anchor.video_id),
                "polarity": "positive" if anchor.positive else "negative",
                "id": anchor.id,
            }
    for ids in _portions(id_ for id_ in store.catalog.ids("conditionings") if id_ not in used):
        yield from map(_condition_columns, store.conditionings(ids).values())


def _write_all(exporters: list[Any], store: PairStore, progress: Progress) -> None:
    """Calls in flight: two an actor."""
    todo = (
        (name, ids)
        for name, table in (("conditions", "conditionings"), ("videos", "latents"))
        for ids in _portions(store.catalog.ids(table), VIDEOS_A_CALL)
    )
    running: dict[Any, tuple[Any, str]] = {}
    done = 0
    for exporter in [*exporters, *exporters]:
        for name, ids in islice(todo, 1):
            running[getattr(exporter, name).remote(ids)] = exporter, name
    while running:
        (answer,), _ = ray.wait([*running], num_returns=1)
        exporter, name = running.pop(answer)
        done += ray.get(answer) if name == "videos" else 0
        progress.update(step=done)
        for name, ids in islice(todo, 1):
            running[getattr(exporter, name).remote(ids)] = exporter, name


def _pair_row(pair: StoredPair, judged: Judged, conditioning: Conditioning) -> dict[str, Any]:
    (a, b), verdict = judged.in_order, judged.verdict
    row = {
        **_condition_columns(conditioning),
        **_video_columns("a", a),
        **_video_columns("b", b),
        "id": pair.id,
        "source": pair.source,
        "policy_version": pair.policy_version,
    }
    if verdict is None:
        return row | {"choice": "a"}
    return row | {
        "label": verdict.label,
        "probabilities": list(verdict.probabilities),
        "label_mass": verdict.label_mass,
        "agreed": verdict.agreed,
        "first_shown": verdict.first_shown,
        "judged_as": verdict.domain,
        "rubric_version": verdict.rubric_version,
        "ranker_version": verdict.ranker_version,
    }


def _condition_columns(conditioning: Conditioning) -> dict[str, Any]:
    condition = conditioning.condition
    with_frame = conditioning.first_frame is not None
    return {
        "prompt": condition.prompt,
        "domain": condition.domain,
        "first_frame": exported(FIRST_FRAMES, condition.id, ".png") if with_frame else None,
        "condition_id": condition.id,
        "exact_condition": exported(CONDITIONS, condition.id, ".safetensors"),
    }


def _video_columns(name: str, id_: str) -> dict[str, Any]:
    return {
        name: exported(VIDEOS, id_, ".mp4"),
        f"{name}_id": id_,
        f"exact_{name}": exported(EXACT, id_, ".safetensors"),
    }


def _portions(items: Iterable[Any], count: int = AT_ONCE) -> Iterator[list[Any]]:
    """The items, so many together."""
    iterator = iter(items)
    while some := list(islice(iterator, count)):
        yield some
