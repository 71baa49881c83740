"""All answers of a manifest, brought together: one pair, anchor or prompt each, however many annotators there were.

A majority decides, first which video is the better one, then which of its two labels. The answers lie in an SQLite file
meanwhile, so that a manifest of any length fits into memory.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from buffers.labels import LABELS, LABELS_OF, choice_of
from buffers.people.agreement import Agreement, majority
from buffers.people.fingerprints import seen_fingerprint
from buffers.people.rows import EXPORTED, KINDS, ConditionFiles, Kind, PromptRow, VideoFiles
from buffers.records import Source, Verdict, condition_id
from buffers.store.database import Database
from configs.keys import shown

READERS = 16
"""Threads that look at files: they mostly wait for the disk."""

_TABLES = """
CREATE TABLE files (path TEXT PRIMARY KEY, print TEXT) WITHOUT ROWID;
CREATE TABLE answers (item TEXT, annotator TEXT, row INTEGER, kind TEXT, content TEXT, UNIQUE (item, annotator));
CREATE TABLE given (kind TEXT, id TEXT, of TEXT, PRIMARY KEY (kind, id)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Item:
    """What is to be stored. `rows`: numbers of the manifest's rows, the first answer first.

    `videos`: chosen and rejected of a pair, the video of an anchor, none of a prompt; all ids are filled in. `verdict`:
    None of a pair if annotators said only which video is the better one. `positive`: of an anchor.
    """

    kind: Kind
    id: str
    rows: tuple[int, ...]
    condition: ConditionFiles
    videos: tuple[VideoFiles, ...] = ()
    verdict: Verdict | None = None
    source: Source = "offline"
    policy_version: int = 0
    positive: bool = False

    @property
    def video_ids(self) -> tuple[str, ...]:
        return tuple(video.id for video in self.videos)


@dataclass(frozen=True)
class Skipped:
    """Rows of the manifest of which nothing is stored, and why."""

    rows: tuple[int, ...]
    why: str


class Gathered:
    """Takes rows in any order, then gives items in the order in which the manifest first names them.

    `kappa`: Fleiss' kappa of which video is better, of the four labels, and of polarity, once `items` has ended.
    """

    def __init__(self, path: Path, *, rule: str) -> None:
        """`path`: of a new file. `rule`: how clips are cut. The same video cut by another rule has another id."""
        self._db = Database(path, durable=False, tables=_TABLES)
        self._rule = rule
        self.kappa = {name: Agreement() for name in ("video", "label", "polarity")}
        self._taken = 0

    def add(self, rows: Mapping[int, PromptRow]) -> list[Skipped]:
        """Takes rows by their number. Returns those with a file that cannot be read, or an id that is another's."""
        prints, bad = self._fingerprints(rows.values()), list[Skipped]()
        with self._db.transaction() as db:
            for number, row in rows.items():
                why = [str(prints[file]) for file in _read_files(row) if isinstance(prints[file], OSError)]
                why = why or self._misused_ids(row)
                if why:
                    bad.append(Skipped((number,), why[0]))
                    continue
                row = self._with_ids(row, prints)
                item = _hashed(row.kind, row.condition_id, *sorted(video.id for video in row.videos))
                content = row.model_dump_json(exclude_defaults=True)
                answer = (item, getattr(row, "annotator", None), number, row.kind, content)
                db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", answer)
        self._taken += len(rows) - len(bad)
        return bad

    @property
    def repeated(self) -> int:
        """Answers that their annotator gave again later in the manifest; the last one counts."""
        return self._taken - self._db.value("SELECT count(*) FROM answers")

    @property
    def count(self) -> int:
        """How many items there are, those included that cannot be decided."""
        return self._db.value("SELECT count(DISTINCT item) FROM answers")

    def items(self) -> Iterator[Item | Skipped]:
        """Each item once, or `Skipped` if annotators are split evenly or the item's id was given to another one."""
        query = (
            "SELECT item, row, kind, content FROM answers "
            "JOIN (SELECT item, min(row) AS first FROM answers GROUP BY item) USING (item) ORDER BY first, row"
        )
        for item, answers in groupby(self._db.connection.execute(query), key=lambda answer: answer[0]):
            _, numbers, kinds, contents = zip(*answers, strict=True)
            yield self._merged(item, numbers, [KINDS[kinds[0]].model_validate_json(content) for content in contents])

    def close(self) -> None:
        self._db.close()

    def _merged(self, item: str, numbers: tuple[int, ...], rows: list[Any]) -> Item | Skipped:
        first = rows[0]
        if first.kind == "prompt":
            return Item("prompt", first.condition_id, numbers, first.condition)
        if first.id and not self._is_of(first.kind, first.id, item):
            return Skipped(numbers, f"id {shown(first.id)} is given to another row, too")
        merged = Item(first.kind, first.id or item, numbers, first.condition, first.videos)
        if first.kind == "pair":
            return self._merged_pair(merged, rows)
        votes = Counter(row.polarity for row in rows)
        self.kappa["polarity"].add(votes)
        if (polarity := majority(votes)) is None:
            return Skipped(numbers, "its annotators are split evenly over its polarity")
        return replace(merged, positive=polarity == "positive")

    def _merged_pair(self, item: Item, rows: list[Any]) -> Item | Skipped:
        first, (a, b) = rows[0], item.video_ids
        if a == b:
            return Skipped(item.rows, "a and b are the same video")
        answers = [row.from_a(a) for row in rows]
        # In an order that has nothing to do with who is better, or a manifest that names the winner first would look
        # as if chance alone agreed.
        neutral = [row.from_a(min(a, b)) for row in rows]
        self.kappa["video"].add(Counter(choice_of(row.answer) for row in neutral))
        self.kappa["label"].add(Counter(row.label for row in neutral if row.label))
        choices = Counter(choice_of(row.answer) for row in answers)
        if (choice := majority(choices)) is None:
            return Skipped(item.rows, "its annotators are split evenly over which video is better")
        labelled, verdict = [row for row in answers if row.label], None
        label = majority(Counter(row.label for row in labelled if row.label in LABELS_OF[choice]))
        if label is not None:
            shares = [row.probabilities or [float(row.label == each) for each in LABELS] for row in labelled]
            one, two, three, four = (sum(share) / len(shares) for share in zip(*shares, strict=True))
            facts = {name: getattr(first, name) for name in EXPORTED}
            facts |= {"agreed": len(choices) == 1} if first.agreed is None else {}
            domain = first.judged_as or first.domain or "general"
            verdict = Verdict(label, (one, two, three, four), dropped=None, domain=domain, **facts)
        videos = item.videos if choice == "a" else item.videos[::-1]
        return replace(item, videos=videos, verdict=verdict, source=first.source, policy_version=first.policy_version)

    def _misused_ids(self, row: PromptRow) -> list[str]:
        """Why the row's own ids are no good: an id stands for one video file, or one condition, of the manifest."""
        condition = "\t".join([row.prompt, row.domain or "", str(row.first_frame or "")])
        if row.condition_id and not self._is_of("condition", row.condition_id, condition):
            return [f"condition_id = {shown(row.condition_id)} is that of another prompt, domain or first frame, too"]
        return [
            f"{name}_id = {shown(video.id)} is that of another file, too; leave it out if you have no ids of videos"
            for name, video in zip(row.sides, row.videos, strict=True)
            if video.id and not self._is_of("video", video.id, str(video.file))
        ]

    def _is_of(self, kind: str, id_: str, of: str) -> bool:
        """Whether the id stands for this and nothing else so far."""
        self._db.connection.execute("INSERT OR IGNORE INTO given VALUES (?, ?, ?)", (kind, id_, of))
        return self._db.rows("SELECT of FROM given WHERE kind = ? AND id = ?", (kind, id_)) == [(of,)]

    def _fingerprints(self, rows: Iterable[PromptRow]) -> dict[Path, Any]:
        """Of each file, or the OSError that says why it cannot be read; each is looked at once in a manifest."""
        paths = {file for row in rows for file in _read_files(row)}
        query = "SELECT print FROM files WHERE path = ?"
        known = {path: found[0][0] for path in paths if (found := self._db.rows(query, (str(path),)))}
        new = sorted(paths - known.keys())
        with ThreadPoolExecutor(READERS) as readers:
            prints = dict(zip(new, readers.map(_fingerprint, new), strict=True))
        read = [(str(path), value) for path, value in prints.items() if isinstance(value, str)]
        with self._db.transaction() as db:
            db.executemany("INSERT INTO files VALUES (?, ?)", read)
        return known | prints

    def _with_ids(self, row: PromptRow, prints: Mapping[Path, str]) -> PromptRow:
        """The row with the ids that it leaves open: they follow from contents and, of a video, the rule."""
        first_frame = prints[row.first_frame] if row.first_frame else ""
        ids = {"condition_id": row.condition_id or condition_id(row.prompt, row.domain, first_frame)}
        for name, video in zip(row.sides, row.videos, strict=True):
            ids[f"{name}_id"] = video.id or _hashed(prints[video.file], self._rule)
        return row.model_copy(update=ids)


def _read_files(row: PromptRow) -> list[Path]:
    """The files whose contents make an id."""
    return [video.file for video in row.videos if not video.id] + ([row.first_frame] if row.first_frame else [])


def _fingerprint(path: Path) -> str | OSError:
    try:
        return seen_fingerprint(path)
    except OSError as error:
        return error


def _hashed(*parts: str) -> str:
    return hashlib.sha256("\t".join(parts).encode()).hexdigest()[:32]
