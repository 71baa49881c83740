"""`apogee data export STORE --out FOLDER`: videos to look at, exact tensors, and a manifest that ingest reads back.

manifest.parquet      a row for each pair, anchor and prompt; written last
made_for.json         whose latents and embeddings the exact tensors are
videos/  exact/       each video once, as mp4 and as latents
conditions/  first_frames/
"""

import json
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from actors.exporter import Exporter
from buffers.people.exported import CONDITIONS, EXACT, FIRST_FRAMES, VIDEOS, manifest_rows
from buffers.people.rows import SCHEMA
from buffers.portions import portions
from buffers.store.encoded_by import ENCODED_BY
from buffers.store.pair_store import PairStore
from cluster.checks.bundle import encoded_by
from cluster.monitor.progress import Progress
from cluster.on_ray.pool import pool
from configs.schema import RunConfig
from media.whole import whole_file
from policy.bundle import check_bundle

MANIFEST = "manifest.parquet"
VIDEOS_A_CALL, ROWS_AT_ONCE = 16, 256


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
    written = json.dumps(store.encoded_by, indent=1)
    if (out / ENCODED_BY).exists() and (out / ENCODED_BY).read_text() != written:
        raise ValueError(f"{out} holds an export of a store that was made with another bundle; give another folder")
    for folder in (VIDEOS, EXACT, CONDITIONS, FIRST_FRAMES):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / ENCODED_BY).write_text(written)
    given = (where if "://" in where else str(Path(where).resolve()), out)
    with Progress(store.catalog.count("latents"), unit="video") as progress:
        progress.phase("decoding")
        with (
            TemporaryDirectory() as logs,
            pool(config, Exporter, *given, fps=config.sampling.fps, logs=Path(logs)) as actors,
        ):
            for _ in actors.each("conditions", portions(store.catalog.ids("conditionings"), VIDEOS_A_CALL)):
                pass
            for done in accumulate(actors.each("videos", portions(store.catalog.ids("latents"), VIDEOS_A_CALL))):
                progress.update(step=done)
        progress.phase("writing the manifest")
        with whole_file(out / MANIFEST) as unfinished, pq.ParquetWriter(unfinished, SCHEMA) as writer:
            for rows in portions(manifest_rows(store), ROWS_AT_ONCE):
                columns = [row.model_dump(mode="json", exclude_unset=True) for row in rows]
                writer.write_table(pa.Table.from_pylist(columns, schema=SCHEMA))
    store.close()
    return out / MANIFEST
