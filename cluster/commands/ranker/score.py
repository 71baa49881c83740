"""`apogee ranker score CONFIG`: the judge against people's own verdicts on held-out pairs, and a report of it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from rich.progress import track

from buffers.people.labelled_pairs import LabelledPair
from cluster.checks.judge import check_judge
from cluster.commands.ranker.pair_files import usable_pairs
from cluster.report.judge_scores import write_ranker_report
from configs.ranker import RankerScoringConfig
from ranker.frames import SampledFrames, read_frames
from ranker.questions import Question
from ranker.ranker import Ranker
from ranker.scoring import Scored, failures, score

PAIRS_AT_ONCE = 16
"""Read and judged together; the next ones are read meanwhile."""


def score_ranker(config: RankerScoringConfig) -> Path:
    """Judge every pair in both orders and write `scores.jsonl`, `figures.json` and `report.html` into `out`.

    Raises ValueError or OSError before the engine is started if checkpoint, adapters, manifest or a video file is
    wrong, or if `out` holds a report already.
    """
    folder = Path(config.out)
    if (folder / "report.html").exists():
        raise FileExistsError(f"out = {folder} holds a report already; it was left as it is. Choose another out")
    check_judge(config.ranker)
    pairs = usable_pairs(Path(config.pairs), skip_bad_rows=config.skip_bad_rows)
    folder.mkdir(parents=True, exist_ok=True)
    ranker = Ranker(config.ranker)
    scored: list[Scored] = []
    with (folder / "scores.jsonl").open("w", encoding="utf-8") as rows:
        batches = [pairs[start : start + PAIRS_AT_ONCE] for start in range(0, len(pairs), PAIRS_AT_ONCE)]
        read = _read(batches, config)
        for batch in track(batches, description="judging", transient=True):
            questions = [
                Question(pair.domain, first, second) for pair, (first, second) in zip(batch, next(read), strict=True)
            ]
            for pair, opinion in zip(batch, ranker.compare(questions), strict=True):
                scored.append(Scored(pair, opinion.verdict))
                row = {"a": str(pair.a), "b": str(pair.b), "domain": pair.domain, "right": pair.right}
                rows.write(json.dumps({**row, "criterion": pair.criterion, "verdict": asdict(opinion.verdict)}) + "\n")
            rows.flush()
    figures = score(scored)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    shown = [
        (each, _footage(each.pair.a, config), _footage(each.pair.b, config))
        for each in failures(scored)[: config.shown_failures]
    ]
    versions = ", ".join(sorted({each.verdict.ranker_version for each in scored}))
    write_ranker_report(folder / "report.html", config, figures, shown, version=versions)
    return folder


def _read(
    batches: list[list[LabelledPair]], config: RankerScoringConfig
) -> Iterator[list[tuple[SampledFrames, SampledFrames]]]:
    """Both videos of each pair, a batch ahead of the judge."""

    def both(batch: list[LabelledPair]) -> list[tuple[SampledFrames, SampledFrames]]:
        return [(_footage(pair.a, config), _footage(pair.b, config)) for pair in batch]

    with ThreadPoolExecutor(1) as reader:
        following = [reader.submit(both, batch) for batch in batches[:1]]
        for batch in [*batches[1:], None]:
            done = following.pop().result()
            if batch is not None:
                following.append(reader.submit(both, batch))
            yield done


def _footage(path: Path, config: RankerScoringConfig) -> SampledFrames:
    return read_frames(path, count=config.ranker.frames, max_pixels=config.ranker.max_pixels_per_video)
