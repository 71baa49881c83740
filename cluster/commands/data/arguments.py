"""`apogee data ingest | inspect | verify | export`: people's videos into a store, a look at it, and out again."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from buffers.store.pair_store import PairStore
from configs.load import load_config

NOT_SOUND = 2
SHOWN_SKIPPED = 20


def add_command(commands: Any, name: str, text: str, do: Callable[[Any], int] | None = None) -> Any:
    """A command's parser, which argparse's subparsers `commands` now offer; `do` answers its exit code."""
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(do=do)
    return parser


def add_data_commands(commands: Any) -> None:
    """`commands`: argparse's subparsers of the whole command line."""
    data = add_command(commands, "data", "people's own videos and judgements, and every pair that is stored")
    parts = data.add_subparsers(required=True, metavar="command")
    text = (
        "bring in a manifest of pairs, labelled videos or prompts (.jsonl, .csv, .parquet, or a folder that `datasets` "
        "saved), whose files every node of the cluster can read; the same command goes on after a stop"
    )
    ingest = add_command(parts, "ingest", text, _ingest)
    ingest.add_argument("manifest", type=Path, metavar="MANIFEST")
    ingest.add_argument("--into", required=True, metavar="STORE", help="a folder, or a URI such as s3://bucket/store")
    ingest.add_argument("--skip-bad-rows", action="store_true", help="leave bad rows out instead of refusing them all")
    ingest.add_argument("--skipped", type=Path, metavar="FILE", help="write every row that was left out there, and why")
    _takes_bundle(ingest, "whose bundle, size, frame rate and generator resources are used")
    inspect = add_command(parts, "inspect", "count what is in a store, and draw a contact sheet of it", _inspect)
    inspect.add_argument("store", metavar="STORE")
    inspect.add_argument("--sheet", type=Path, metavar="FILE", help="the picture (default: contact_sheet.png)")
    _takes_bundle(inspect, "whose bundle decodes the videos of the picture")
    verify = add_command(parts, "verify", "read every file of a store and check it against its checksum", _verify)
    verify.add_argument("store", metavar="STORE")
    text = "write a store's videos, exact tensors and a manifest that `ingest` reads back"
    export = add_command(parts, "export", text, _export)
    export.add_argument("store", metavar="STORE")
    export.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    _takes_bundle(export, "whose bundle decodes the videos, at its frame rate")


def _takes_bundle(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--config", required=True, help=f"a run's config, {what}")
    text = "dotted keys of the config, such as sampling.fps=16"
    parser.add_argument(
        "--set", dest="overrides", nargs="+", action="extend", default=[], metavar="key=value", help=text
    )


def _ingest(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    from cluster.commands.data.ingest import ingest

    try:
        summary = ingest(config, options.manifest, options.into, skip_bad_rows=options.skip_bad_rows)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; what was stored stays, and the same command goes on behind it") from None
    if options.skipped:
        lines = [json.dumps({"rows": some.rows, "why": some.why}) for some in summary.skipped]
        options.skipped.write_text("".join(f"{line}\n" for line in lines))
    new = ", ".join(f"{count:,} {kind}s" for kind, count in summary.new.items())
    print(
        f"{options.into}: {new} are new; {summary.there:,} were there already, {summary.corrected:,} of them corrected"
    )
    for name, kappa in summary.kappa.items():
        if kappa is not None:
            print(f"annotators agree on {name} with Fleiss' kappa {kappa:.2f} (0: as by chance, 1: always)")
    if summary.repeated:
        print(f"{summary.repeated:,} answers were given again by their annotator; the last one counts")
    if summary.skipped:
        print(f"left out, {len(summary.skipped):,}:")
        for some in summary.skipped[:SHOWN_SKIPPED]:
            print(f"  row {', '.join(map(str, some.rows))}: {some.why}")
        if len(summary.skipped) > SHOWN_SKIPPED:
            print(f"  and {len(summary.skipped) - SHOWN_SKIPPED:,} more (--skipped FILE writes all of them)")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from cluster.commands.data.inspect import draw_sheet, print_counts

    store = PairStore(options.store, write=False)
    print_counts(store)
    sheet = options.sheet or Path("contact_sheet.png")
    try:
        print(f"contact sheet: {draw_sheet(load_config(options.config, options.overrides), store, sheet)}")
    except (ValueError, OSError) as error:
        if options.sheet:
            raise
        print(f"no contact sheet: {error}")
    store.close()
    return 0


def _verify(options: argparse.Namespace) -> int:
    from rich.progress import Progress

    store = PairStore(options.store, write=False)
    segments = store.catalog.segments()
    size = sum(segment.bytes for segment in segments)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task("reading", total=size)
        wrong = store.verify(read=lambda segment: progress.advance(bar, segment.bytes)) | store.recovery.missing
    store.close()
    for name, what in sorted(wrong.items()):
        print(f"{options.store}/{name}: {what}", file=sys.stderr)
    if wrong:
        return NOT_SOUND
    print(f"{options.store}: {len(segments):,} segments with {size:,} bytes hold what was written")
    return 0


def _export(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    from cluster.commands.data.export import export

    try:
        manifest = export(config, options.store, options.out)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on with what is not written yet") from None
    print(f"done: {manifest}")
    return 0
