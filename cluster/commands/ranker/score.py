"""`apogee ranker score CONFIG`: the judge against people's own verdicts on held-out pairs, and a report of it.

What it leaves in `out`: `judge.json` (who judges, and how), `scores.jsonl` (a row a judged pair, at once),
`figures.json`, and `report.html` at the end. The same command goes on after a stop.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import track

from buffers.people.labelled_pairs import LabelledPair
from buffers.people.manifests import listed, made_or_why
from buffers.records import Verdict
from cluster.checks.judge import check_judge
from cluster.commands.ranker.pair_files import Context, usable_pairs
from cluster.monitor.rows import read_metrics
from cluster.report.judge_scores import write_ranker_report
from configs.ranker import RankerScoringConfig
from configs.sections import RankerConfig
from media.whole import drop_torn_line, write_whole
from ranker.frames import SampledFrames, read_frames
from ranker.judges.adapter_files import judge_versions, named_adapters
from ranker.questions import Question
from ranker.ranker import Ranker
from ranker.rubric import RUBRIC_VERSION
from ranker.scoring import Scored, failures, score

PAIRS_AT_ONCE = 16
"""Read and judged together; the next ones are read meanwhile."""

ELSEWHERE = {"path", "adapters", "kind", "function", "motion_share", "num_actors", "cpus_per_actor", "gpus_per_actor"}
"""Keys of `ranker` that change no verdict, or whose files are known by their content."""

Both = tuple[SampledFrames, SampledFrames]


def score_ranker(config: RankerScoringConfig) -> Path:
    """Judge every pair in both orders and write `scores.jsonl`, `figures.json` and `report.html` into `out`.

    Pairs that `scores.jsonl` holds are not asked again. A pair that turns out to be bad while others are judged
    (damage in the middle of a file, a question that the engine does not take) costs only itself: it is printed, and the
    others are judged. If `skip_bad_rows` is set, it is left out of the figures and named in the report. Otherwise no
    report is written, and ValueError names these pairs: once they are mended or to be skipped, the same command ends
    what is left.

    Raises ValueError or OSError before the engine is started if checkpoint, adapters, manifest, a video file or the
    length of a question is wrong, if `out` holds a report already, or what another judge said.
    """
    folder = Path(config.out)
    if (folder / "report.html").exists():
        raise FileExistsError(f"out = {folder} holds a report already; it was left as it is. Choose another out")
    check_judge(config.ranker)
    settings = _settings(config.ranker)
    _check_same(folder, settings)
    pairs, left_out = usable_pairs(Path(config.pairs), Context.of(config.ranker), skip_bad_rows=config.skip_bad_rows)
    verdicts = _known(folder / "scores.jsonl", pairs)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "judge.json", json.dumps(settings, indent=1) + "\n")
    try:
        bad = _judge(pairs, verdicts, config)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {folder} keeps what was judged, and the same command goes on") from None
    if bad and not config.skip_bad_rows:
        raise ValueError(
            f"{len(bad)} of {len(pairs)} pairs cannot be judged:\n{listed(bad, of='pairs')}\n{folder / 'scores.jsonl'} "
            "keeps the verdicts about the others, and no report was written. Mend these files, or set "
            "skip_bad_rows=true, and give the same command again"
        )
    scored = [Scored(pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True) if verdict]
    if not scored:
        raise ValueError(f"{config.pairs}: no pair could be judged")
    figures = score(scored, left_out + bad)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    shown = [(each, *_both(each.pair, config.ranker)) for each in failures(scored)[: config.shown_failures]]
    versions = ", ".join(sorted({each.verdict.ranker_version for each in scored}))
    write_ranker_report(folder / "report.html", config, figures, shown, version=versions)
    return folder


def _judge(pairs: Sequence[LabelledPair], verdicts: list[Verdict | None], config: RankerScoringConfig) -> list[str]:
    """Fills `verdicts` in and appends each to `scores.jsonl`; returns why pairs are left out, which is printed too."""
    left = [place for place, verdict in enumerate(verdicts) if verdict is None]
    if not left:
        return []
    ranker, bad = Ranker(config.ranker), []
    batches = [left[start : start + PAIRS_AT_ONCE] for start in range(0, len(left), PAIRS_AT_ONCE)]
    read = _read([[pairs[place] for place in batch] for batch in batches], config.ranker)
    with (Path(config.out) / "scores.jsonl").open("a", encoding="utf-8") as rows:
        for batch in track(batches, description="judging", transient=True):
            found = [(place, pairs[place], both) for place, both in zip(batch, next(read), strict=True)]
            problems = [both for _, _, both in found if isinstance(both, str)]
            shown = [(place, pair, both) for place, pair, both in found if not isinstance(both, str)]
            asked = [Question(pair.domain, *both, framed=pair.first_frame is not None) for _, pair, both in shown]
            for (place, pair, _), opinion in zip(shown, ranker.compare(asked), strict=True):
                if opinion.problem:
                    problems.append(f"{pair.a} and {pair.b}: {opinion.problem}")
                    continue
                verdicts[place] = opinion.verdict
                rows.write(json.dumps({**_about(pair), "verdict": asdict(opinion.verdict)}) + "\n")
            rows.flush()
            for problem in problems:
                print(f"left out: {problem}", flush=True)
            bad += problems
    return bad


def _about(pair: LabelledPair) -> dict[str, Any]:
    about = {"a": str(pair.a), "b": str(pair.b), "domain": pair.domain, "right": list(pair.right)}
    return {**about, "criterion": pair.criterion}


def _known(file: Path, pairs: Sequence[LabelledPair]) -> list[Verdict | None]:
    """The verdict that `file` holds about each pair, or None. A torn last line leaves the file.

    Raises ValueError if the file holds anything else than such rows.
    """
    drop_torn_line(file)
    rows = read_metrics(file)
    said: dict[str, list[Verdict]] = defaultdict(list)
    try:
        for row in rows:
            verdict = Verdict(**row["verdict"] | {"probabilities": tuple(row["verdict"]["probabilities"])})
            said[json.dumps({**row, "verdict": None})].append(verdict)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: holds a row that is no judged pair ({error!r})") from error
    # The same pair may be in the manifest, and so in the file, several times.
    of_pairs = [said[json.dumps({**_about(pair), "verdict": None})] for pair in pairs]
    return [verdicts.pop(0) if verdicts else None for verdicts in of_pairs]


def _settings(config: RankerConfig) -> dict[str, Any]:
    """What verdicts depend on, under the keys that name it."""
    versions = judge_versions(Path(config.path), named_adapters(config.adapters))
    judges = {f"judge of {domain} videos": version for domain, version in versions.items()}
    used = {f"ranker.{key}": value for key, value in config.model_dump(mode="json", exclude=ELSEWHERE).items()}
    return {**judges, "rubric": RUBRIC_VERSION, **used}


def _check_same(folder: Path, settings: dict[str, Any]) -> None:
    """Raises ValueError that names the keys that differ if `folder` holds what another judge said."""
    if not (folder / "scores.jsonl").exists():
        return
    file = folder / "judge.json"
    held = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if keys := [key for key in {**held, **settings} if held.get(key) != settings.get(key)]:
        differ = "; ".join(f"{key} = {held.get(key)!r} there, {settings.get(key)!r} now" for key in keys)
        raise ValueError(f"out = {folder} holds verdicts of another judge or config: {differ}. Choose another out")


def _read(batches: Sequence[Sequence[LabelledPair]], config: RankerConfig) -> Iterator[list[Both | str]]:
    """Both videos of each pair, or why they cannot be read, a batch ahead of the judge."""

    def both(batch: Sequence[LabelledPair]) -> list[Both | str]:
        return [made_or_why(_both, pair, config) for pair in batch]

    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(both, batches[0])
        for batch in batches[1:]:
            done, following = following.result(), reader.submit(both, batch)
            yield done
        yield following.result()


def _both(pair: LabelledPair, config: RankerConfig) -> Both:
    a, b = (read_frames(path, count=config.frames, max_pixels=config.max_pixels_per_video) for path in (pair.a, pair.b))
    return a, b
