"""Two video files and their verdict, for a person to read: what `apogee rank A.mp4 B.mp4` prints."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from buffers.labels import MEANINGS, WHY_DROPPED, Four, swapped_probabilities
from buffers.records import Domain
from cluster.commands.ranker.pair_files import Context, Header
from configs.sections import RankerConfig
from ranker.frames import SampledFrames, read_frames
from ranker.judges.checkpoint import check_descriptions
from ranker.questions import Question, shape_of
from ranker.ranker import DEFAULT_DOMAIN, Opinion, Ranker


def rank_by_hand(
    config: RankerConfig, a: Path, b: Path, *, prompt: str | None, domain: Domain | None, console: Console
) -> None:
    """Read both files, ask the judge as a run would, and print the verdict with the probabilities of each order.

    Without a domain the judge is asked which one `prompt` is of; without either it is the general one.
    Raises FileNotFoundError or ValueError before the engine is started if a file is no whole video, the judge does not
    take a question about them, or `config.path` is no Qwen3-VL checkpoint, and ValueError if the engine refuses it.
    """
    shown = [read_frames(path, count=config.frames, max_pixels=config.max_pixels_per_video) for path in (a, b)]
    for name, path, footage in zip("AB", (a, b), shown, strict=True):
        console.print(f"{name}  {path}: {_described(footage)}", soft_wrap=True)
    if prompt and not domain:
        check_descriptions(Path(config.path), [prompt], tokens=config.max_model_len)
    headers = [Header(path, each.total, shape_of(each)) for path, each in zip((a, b), shown, strict=True)]
    Context.of(config).check(domain or DEFAULT_DOMAIN, *headers)
    with console.status("starting the judge"):
        ranker = Ranker(config)
    asked = "" if domain or not prompt else " (asked of the judge)"
    domain = domain or (ranker.domains_of([prompt])[0] if prompt else None) or DEFAULT_DOMAIN
    (opinion,) = ranker.compare([Question(domain, *shown)])
    if opinion.problem:
        raise ValueError(f"{a} and {b}: {opinion.problem}")
    verdict = opinion.verdict
    console.print(f"judge {verdict.ranker_version}, rubric {verdict.rubric_version}, domain {domain}{asked}\n")
    console.print(_table(opinion))
    named = f"verdict: {verdict.label}, {MEANINGS[verdict.label - 1]} (confidence {verdict.confidence:.2f})"
    console.print(f"\n{named}", style="bold")
    if verdict.dropped:
        console.print(f"A run would not learn from this pair: {WHY_DROPPED[verdict.dropped]}.")


def _described(footage: SampledFrames) -> str:
    height, width = footage.frames.shape[1:3]
    shown, total, fps = len(footage.indices), footage.total, footage.fps
    return f"{shown} of {total} frames, {total / fps:.2f} s at {fps:.4g} frames per second, {width} x {height}"


def _table(opinion: Opinion) -> Table:
    """A row an order, both in terms of A and B, and their mean, which is the verdict's."""
    table = Table(*("", *MEANINGS, "label mass"), box=None, pad_edge=False)
    rows: list[tuple[str, Four, float]] = [("A first", opinion.forth.probabilities, opinion.forth.mass)]
    if opinion.back is not None:
        rows.append(("B first", swapped_probabilities(opinion.back.probabilities), opinion.back.mass))
        rows.append(("both", opinion.verdict.probabilities, opinion.verdict.label_mass))
    for name, probabilities, mass in rows:
        table.add_row(name, *(f"{value:.3f}" for value in probabilities), f"{mass:.3f}")
    return table
