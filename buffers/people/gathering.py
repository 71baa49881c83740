"""All answers of a manifest, brought together: one pair, anchor or prompt each, however many annotators there were.

A majority decides, first which video is the better one, then which of its two labels. The answers lie in an SQLite file
meanwhile, so that a manifest of any length fits into memory.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from buffers.labels import LABELS, LABELS_OF, Four, choice_of, swapped, swapped_probabilities
from buffers.people.agreement import Agreement, majority
from buffers.people.entries import ConditionFiles, Entry, Kind, VideoFiles
from buffers.people.fingerprints import fingerprint
from buffers.records import Condition, Verdict, condition_id
from buffers.store.database import Database

READERS = 16
"""Threads that look at files: they mostly wait for the disk."""

PEOPLE = "people"
"""Rubric and ranker of a verdict that no model gave."""

_TABLES = (
    "CREATE TABLE files (path TEXT PRIMARY KEY, print TEXT) WITHOUT ROWID",
    "CREATE TABLE conditions (id TEXT PRIMARY KEY, files TEXT) WITHOUT ROWID",
    "CREATE TABLE videos (id TEXT PRIMARY KEY, file TEXT, exact TEXT) WITHOUT ROWID",
    "CREATE TABLE answers (item TEXT, annotator TEXT, row INTEGER, content TEXT, UNIQUE (item, annotator))",
)


@dataclass(frozen=True)
class Item:
    """What is to be stored. `rows`: of the manifest, the first of its answers first.

    `videos`: ids of two (chosen, rejected), one or none, whose files are `Gathered.video`'s to know. `verdict`: None
    of pairs where annotators said only which video is the better one. `positive`: of an anchor.
    """

    kind: Kind
    id: str
    rows: tuple[int, ...]
    condition: Condition
    files: ConditionFiles
    videos: tuple[str, ...] = ()
    verdict: Verdict | None = None
    source: str = "offline"
    policy_version: int = 0
    positive: bool = False


@dataclass(frozen=True)
class Skipped:
    """Rows of the manifest that nothing is stored of, and why."""

    rows: tuple[int, ...]
    why: str


class Gathered:
    """Takes entries in any order, then gives items in the order in which the manifest first names them.

    `kappa`: Fleiss' kappa of which video is better, of the four labels, and of polarity, once `items` has ended.
    """

    def __init__(self, path: Path, *, rule: str) -> None:
        """`path`: of a new file. `rule`: how clips are cut; the same video cut otherwise is another one."""
        self._db = Database(path, durable=False)
        self._rule = rule
        self.kappa = {name: Agreement() for name in ("video", "label", "polarity")}
        self._taken = 0
        with self._db.transaction() as db:
            for statement in _TABLES:
                db.execute(statement)

    def add(self, entries: Sequence[Entry]) -> None:
        """Raises OSError if a file cannot be read."""
        prints = self._fingerprints(entries)
        with self._db.transaction() as db:
            for entry in entries:
                condition = self._condition(entry.condition, prints)
                db.execute("INSERT OR IGNORE INTO conditions VALUES (?, ?)", (condition, _dumped(entry.condition)))
                ids = [self._video(video, prints) for video in entry.videos]
                for id_, video in zip(ids, entry.videos, strict=True):
                    exact = None if video.exact is None else str(video.exact)
                    db.execute("INSERT OR IGNORE INTO videos VALUES (?, ?, ?)", (id_, str(video.file), exact))
                item = _hashed(entry.kind, condition, *sorted(ids))
                content = {
                    "kind": entry.kind,
                    "condition": condition,
                    "videos": ids,
                    "answer": entry.answer,
                    "probabilities": entry.probabilities,
                    "facts": entry.facts or {},
                }
                answer = (item, entry.annotator, entry.row, json.dumps(content))
                db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", answer)
        self._taken += len(entries)

    @property
    def repeated(self) -> int:
        """Answers that their annotator gave again later in the manifest; the last one counts."""
        return self._taken - self._count("answers")

    @property
    def count(self) -> int:
        """How many items there are, those included that cannot be decided."""
        return self._db.rows("SELECT count(DISTINCT item) FROM answers")[0][0]

    def items(self) -> Iterator[Item | Skipped]:
        """Each item once; `Skipped` where annotators are split evenly."""
        query = (
            "SELECT item, row, content, files FROM answers "
            "JOIN (SELECT item, min(row) AS first FROM answers GROUP BY item) USING (item) "
            "JOIN conditions ON conditions.id = json_extract(content, '$.condition') ORDER BY first, row"
        )
        found = self._db.connection.execute(query)
        for item, rows in groupby(found, key=lambda row: row[0]):
            answers = list(rows)
            numbers = tuple(row for _, row, _, _ in answers)
            contents = [json.loads(content) for _, _, content, _ in answers]
            yield self._merged(item, numbers, contents, _loaded(answers[0][3]))

    def video(self, id_: str) -> VideoFiles:
        """The files of a video of these items."""
        ((file, exact),) = self._db.rows("SELECT file, exact FROM videos WHERE id = ?", (id_,))
        return VideoFiles(Path(file), Path(exact) if exact else None, id_)

    def close(self) -> None:
        self._db.close()

    def _merged(self, key: str, rows: tuple[int, ...], answers: list[dict], files: ConditionFiles) -> Item | Skipped:
        first = answers[0]
        condition = Condition(first["condition"], files.prompt, files.domain)
        id_ = first["facts"].get("id", key)
        if first["kind"] == "prompt":
            return Item("prompt", id_, rows, condition, files)
        if first["kind"] == "anchor":
            votes = Counter(answer["answer"] for answer in answers)
            self.kappa["polarity"].add(votes)
            polarity = majority(votes)
            if polarity is None:
                return Skipped(rows, "its annotators are split evenly over its polarity")
            return Item("anchor", id_, rows, condition, files, tuple(first["videos"]), positive=polarity == "positive")
        return self._merged_pair(Item("pair", id_, rows, condition, files), answers)

    def _merged_pair(self, item: Item, answers: list[dict[str, Any]]) -> Item | Skipped:
        first = answers[0]
        if len(set(first["videos"])) < 2:
            return Skipped(item.rows, "a and b are the same video")
        in_order = [_in_order(answer, first["videos"]) for answer in answers]
        # In an order that has nothing to do with who is better, or a manifest that names the winner first would look
        # as if chance alone agreed.
        neutral = [_in_order(answer, sorted(first["videos"])) for answer in answers]
        self.kappa["video"].add(Counter(choice_of(answer) for answer, _ in neutral))
        self.kappa["label"].add(Counter(answer for answer, _ in neutral if isinstance(answer, int)))
        choices = Counter(choice_of(answer) for answer, _ in in_order)
        choice = majority(choices)
        if choice is None:
            return Skipped(item.rows, "its annotators are split evenly over which video is better")
        labels = [(answer, given) for answer, given in in_order if isinstance(answer, int)]
        label = majority(Counter(label for label, _ in labels if label in LABELS_OF[choice]))
        facts, verdict = first["facts"], None
        if label is not None:
            shares = [given or [float(label == each) for each in LABELS] for label, given in labels]
            one, two, three, four = (sum(share) / len(shares) for share in zip(*shares, strict=True))
            verdict = Verdict(
                label=label,
                probabilities=(one, two, three, four),
                label_mass=float(facts.get("label_mass", 1.0)),
                agreed=facts.get("agreed", len(choices) == 1),
                first_shown=facts.get("first_shown", 1),
                dropped=None,
                domain=facts.get("judged_as", item.condition.domain or "general"),
                rubric_version=facts.get("rubric_version", PEOPLE),
                ranker_version=facts.get("ranker_version", PEOPLE),
            )
        videos = tuple(first["videos"] if choice == "a" else reversed(first["videos"]))
        kept = {name: facts[name] for name in ("source", "policy_version") if name in facts}
        return replace(item, videos=videos, verdict=verdict, **kept)

    def _fingerprints(self, entries: Iterable[Entry]) -> dict[Path, str]:
        """Of the files whose contents make an id; each file is looked at once in a manifest."""
        paths = {video.file for entry in entries for video in entry.videos if video.id is None}
        paths |= {entry.condition.first_frame for entry in entries if entry.condition.first_frame}
        known = {}
        for path in paths:
            for (found,) in self._db.rows("SELECT print FROM files WHERE path = ?", (str(path),)):
                known[path] = found
        new = sorted(paths - known.keys())
        with ThreadPoolExecutor(READERS) as readers:
            found = dict(zip(new, readers.map(fingerprint, new), strict=True))
        with self._db.transaction() as db:
            db.executemany("INSERT INTO files VALUES (?, ?)", [(str(path), value) for path, value in found.items()])
        return known | found

    def _video(self, video: VideoFiles, prints: dict[Path, str]) -> str:
        return video.id or _hashed(prints[video.file], self._rule)

    def _condition(self, files: ConditionFiles, prints: dict[Path, str]) -> str:
        first_frame = prints[files.first_frame] if files.first_frame else ""
        return files.id or condition_id(files.prompt, files.domain, first_frame)

    def _count(self, table: str) -> int:
        return self._db.rows(f"SELECT count(*) FROM {table}")[0][0]


def _in_order(answer: dict[str, Any], videos: list[str]) -> tuple[int | str, Four | None]:
    """Answer and probabilities as if the videos had been shown in this order."""
    given, probabilities = answer["answer"], answer["probabilities"]
    if answer["videos"] == videos:
        return given, probabilities
    return swapped(given), swapped_probabilities(probabilities) if probabilities else None


def _hashed(*parts: str) -> str:
    return hashlib.sha256("\t".join(parts).encode()).hexdigest()[:32]


def _dumped(files: ConditionFiles) -> str:
    return json.dumps({name: str(value) if isinstance(value, Path) else value for name, value in vars(files).items()})


def _loaded(dumped: str) -> ConditionFiles:
    values = json.loads(dumped)
    paths = {name: Path(values[name]) if values[name] else None for name in ("first_frame", "exact")}
    return ConditionFiles(**{**values, **paths})
