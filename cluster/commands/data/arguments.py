"""`apogee data ingest | inspect | verify | export`: people's videos into a store, a look at it, and out again.

The docstring of a command is its help text.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from buffers.store.pair_store import PairStore
from configs.load import load_config
from configs.paths import path
from configs.schema import RunConfig

NOT_SOUND = 2

WHERE = "A folder, or a URI such as s3://bucket/store."
PLACE: dict[str, Any] = {"type": os.path.expanduser, "metavar": "STORE", "help": WHERE}
STORE = click.argument("store", **PLACE)


def takes_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command gets `config`, loaded, with the keys that are given after `--set` or at the end."""

    @click.option("--config", required=True, metavar="CONFIG", help="A run's config, whose bundle is used.")
    @click.option("--set", "first", multiple=True, metavar="key=value ...", help="Dotted keys of the config.")
    @click.argument("overrides", nargs=-1, metavar="[key=value]...", help="Dotted keys of the config, as after --set.")
    @functools.wraps(command)
    def loaded(config: str, first: Sequence[str], overrides: Sequence[str], **given: Any) -> Any:
        return command(config=load_config(config, (*first, *overrides)), **given)

    return loaded


@click.group()
def data() -> None:
    """People's own videos and judgements, and every pair that is stored."""


@data.command("ingest")
@click.argument("manifest", type=path, metavar="MANIFEST")
@click.option("--into", required=True, **PLACE)
@click.option("--skip-bad-rows", is_flag=True, help="Leave bad rows out instead of refusing them all.")
@click.option("--skipped", type=path, metavar="FILE", help="Write every row that was left out there, and why.")
@takes_config
def _ingest(config: RunConfig, manifest: Path, into: str, skip_bad_rows: bool, skipped: Path | None) -> None:
    """Bring in a manifest of pairs, labelled videos or prompts.

    MANIFEST is a .jsonl, .csv, .tsv or .parquet file, or a folder that `datasets` saved. Every node of the cluster has
    to be able to read the files that it names. The config's bundle, size, frame rate and generator resources are used,
    for example --set sampling.fps=16. The same command goes on after a stop.
    """
    from cluster.commands.check import TEMPLATES
    from cluster.commands.data.ingest import ingest

    try:
        summary = ingest(config, manifest, into, skip_bad_rows=skip_bad_rows)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; what was stored stays, and the same command goes on behind it") from None
    if skipped:
        lines = [json.dumps({"rows": some.rows, "why": some.why}) for some in summary.skipped]
        skipped.write_text("".join(f"{line}\n" for line in lines))
    print(TEMPLATES.get_template("ingest.txt").render(into=into, summary=summary), end="")


@data.command("inspect")
@STORE
@click.option("--sheet", type=path, metavar="FILE", help="The picture (default: contact_sheet.png).")
@takes_config
def _inspect(config: RunConfig, store: str, sheet: Path | None) -> None:
    """Count what is in a store, and draw a contact sheet of it.

    The config's bundle decodes the videos of the picture.
    """
    from cluster.commands.data.inspect import draw_sheet, print_counts

    opened = PairStore(store, write=False)
    print_counts(opened)
    try:
        print(f"contact sheet: {draw_sheet(config, opened, sheet or Path('contact_sheet.png'))}")
    except (ValueError, OSError) as error:
        if sheet:
            raise
        print(f"no contact sheet: {error}")
    opened.close()


@data.command("verify")
@STORE
def _verify(store: str) -> int | None:
    """Read every file of a store and check it against its checksum."""
    from rich.progress import Progress

    opened = PairStore(store, write=False)
    segments = opened.catalog.segments()
    size = sum(segment.bytes for segment in segments)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task("reading", total=size)
        wrong = opened.verify(read=lambda segment: progress.advance(bar, segment.bytes)) | opened.recovery.missing
    opened.close()
    for name, what in sorted(wrong.items()):
        print(f"{store}/{name}: {what}", file=sys.stderr)
    if wrong:
        return NOT_SOUND
    print(f"{store}: {len(segments):,} segments with {size:,} bytes hold what was written")


@data.command("export")
@STORE
@click.option("--out", required=True, type=path, metavar="FOLDER", help="Where to write.")
@takes_config
def _export(config: RunConfig, store: str, out: Path) -> None:
    """Write a store's videos, exact tensors and a manifest.

    The config's bundle decodes the videos, at its frame rate. `apogee data ingest` reads the manifest back.
    """
    from cluster.commands.data.export import export

    try:
        manifest = export(config, store, out)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on with what is not written yet") from None
    print(f"done: {manifest}")
