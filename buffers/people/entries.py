"""What one row of a manifest says of a pair of videos, of one video (an anchor), or of a prompt alone.

    {"prompt": "a dancer", "domain": "human", "a": "1.mp4", "b": "2.mp4", "label": 3, "annotator": "ann"}
    {"prompt": "a dancer", "a": "1.mp4", "b": "2.mp4", "choice": "a"}
    {"prompt": "a dancer", "domain": "human", "video": "3.mp4", "polarity": "negative"}
    {"prompt": "a dancer", "domain": "human", "first_frame": "4.png"}

Which of the three a row is says its columns. Paths are relative to the manifest's folder and cannot leave it. What
follows `annotator` in `PAIR`, `ANCHOR` and `PROMPT` is what `apogee data export` writes, so that nothing is lost on the
way back: exact latents beside the videos, ids, and the verdict as it was.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from buffers.labels import LABELS_OF
from buffers.people.columns import answer_of, check_names, domain_of, file_of, text_of
from buffers.people.manifests import Row
from buffers.records import Domain, Source

Kind = Literal["pair", "anchor", "prompt"]
CONDITION = ("prompt", "domain", "first_frame")
EXACT_CONDITION = ("condition_id", "exact_condition")
PAIR = (
    *("a", "b", *CONDITION, "label", "choice", "probabilities", "annotator"),
    *("id", "a_id", "b_id", "exact_a", "exact_b", *EXACT_CONDITION, "source", "policy_version"),
    *("label_mass", "agreed", "first_shown", "judged_as", "rubric_version", "ranker_version"),
)
ANCHOR = (
    *("video", *CONDITION, "polarity", "annotator"),
    *("id", "video_id", "exact_video", *EXACT_CONDITION),
)
PROMPT = (*CONDITION, *EXACT_CONDITION)
POLARITIES = ("positive", "negative")


@dataclass(frozen=True)
class ConditionFiles:
    """A condition as a row names it. `exact`: a file with its embeddings, as exported."""

    prompt: str
    domain: Domain | None
    first_frame: Path | None = None
    exact: Path | None = None
    id: str | None = None


@dataclass(frozen=True)
class VideoFiles:
    """A video as a row names it. `exact`: a file with its latents, as exported."""

    file: Path
    exact: Path | None = None
    id: str | None = None


@dataclass(frozen=True)
class Entry:
    """One annotator's answer, or a prompt. `row`: its number in the manifest.

    `videos`: two of a pair, one of an anchor. `answer`: of a pair a label (1 to 4) or a choice, of an anchor its
    polarity. `probabilities`: of the labels 1 to 4. `facts`: what else was exported of the record.
    """

    row: int
    kind: Kind
    condition: ConditionFiles
    videos: tuple[VideoFiles, ...] = ()
    answer: int | str | None = None
    probabilities: tuple[float, ...] | None = None
    annotator: str | None = None
    facts: Mapping[str, Any] | None = None


def read_entry(row: Row, folder: Path, *, max_characters: int) -> Entry:
    """Raises ValueError that names the column, its value and what would be right."""
    if row.problem:
        raise ValueError(row.problem)
    values = row.values
    if "a" in values or "b" in values:
        return _pair(row.number, values, folder, max_characters)
    if "video" in values:
        return _anchor(row.number, values, folder, max_characters)
    check_names(values, PROMPT)
    return Entry(row.number, "prompt", _condition(values, folder, max_characters))


def _pair(number: int, values: Mapping[str, Any], folder: Path, max_characters: int) -> Entry:
    check_names(values, PAIR)
    a, b = (_video(values, name, folder) for name in ("a", "b"))
    if a.file.samefile(b.file):
        raise ValueError(f"a and b are the same file, {values['a']}")
    answer = answer_of(values)
    return Entry(
        number,
        "pair",
        _condition(values, folder, max_characters),
        (a, b),
        answer,
        _probabilities(values, answer),
        _annotator(values),
        _pair_facts(values),
    )


def _anchor(number: int, values: Mapping[str, Any], folder: Path, max_characters: int) -> Entry:
    check_names(values, ANCHOR)
    polarity = values.get("polarity")
    if polarity not in POLARITIES:
        raise ValueError(f"polarity = {polarity!r}; want 'positive' or 'negative'")
    video, condition = _video(values, "video", folder), _condition(values, folder, max_characters)
    facts = {"id": text_of(values, "id")} if "id" in values else {}
    return Entry(number, "anchor", condition, (video,), polarity, None, _annotator(values), facts)


def _condition(values: Mapping[str, Any], folder: Path, max_characters: int) -> ConditionFiles:
    prompt = text_of(values, "prompt").strip()
    if not prompt:
        raise ValueError(f"prompt = {values.get('prompt')!r}; want the text that the video was, or is to be, made from")
    if len(prompt) > max_characters:
        raise ValueError(f"prompt has {len(prompt)} characters, prompts.max_characters = {max_characters}")
    return ConditionFiles(
        prompt,
        domain_of(values) if "domain" in values else None,
        file_of(values, "first_frame", folder) if "first_frame" in values else None,
        file_of(values, "exact_condition", folder) if "exact_condition" in values else None,
        text_of(values, "condition_id") or None,
    )


def _video(values: Mapping[str, Any], name: str, folder: Path) -> VideoFiles:
    exact = f"exact_{name}"
    return VideoFiles(
        file_of(values, name, folder),
        file_of(values, exact, folder) if exact in values else None,
        text_of(values, f"{name}_id") or None,
    )


def _annotator(values: Mapping[str, Any]) -> str | None:
    """A name or a number."""
    value = values.get("annotator")
    return str(value) if type(value) is int else text_of(values, "annotator") or None


def _probabilities(values: Mapping[str, Any], answer: int | str) -> tuple[float, ...] | None:
    """Those of the labels 1 to 4; the label must be the likeliest, or the likeliest that names the likelier video."""
    given = values.get("probabilities")
    if given is None:
        return None
    numbers = given if isinstance(given, list) else []
    right = all(type(value) in (int, float) and 0 <= value <= 1 for value in numbers)
    if len(numbers) != 4 or not right or not math.isclose(sum(numbers), 1.0, abs_tol=1e-3):
        raise ValueError(f"probabilities = {given!r}; want a list of four, of the labels 1 to 4, that sum to 1")
    if isinstance(answer, str):
        raise ValueError(f"probabilities are given and choice = {answer!r}: they are of the four labels; want a label")
    share: dict[int, float] = dict(enumerate(numbers, start=1))
    fitting = _likeliest(share, share)
    for labels in LABELS_OF.values():
        if 2 * sum(share[label] for label in labels) >= sum(numbers):
            fitting |= _likeliest(share, labels)
    if answer not in fitting:
        best = min(_likeliest(share, share))
        raise ValueError(f"label = {answer} contradicts probabilities = {given}, which make {best} the likeliest")
    return tuple(map(float, numbers))


def _likeliest(share: Mapping[int, float], labels: Iterable[int]) -> set[int]:
    """Of these labels; several where they are level."""
    some = set(labels)
    return {label for label in some if share[label] == max(share[each] for each in some)}


def _pair_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The exported columns that are there."""
    texts = ("id", "rubric_version", "ranker_version")
    facts: dict[str, Any] = {name: text_of(values, name) for name in texts if name in values}
    wanted = {
        "source": ("online, half-online or offline", lambda value: value in get_args(Source)),
        "policy_version": ("a number from 0 on", lambda value: type(value) is int and value >= 0),
        "label_mass": ("a number in [0, 1]", lambda value: type(value) in (int, float) and 0 <= value <= 1),
        "agreed": ("true or false", lambda value: type(value) is bool),
        "first_shown": ("0, 1 or 2", lambda value: type(value) is int and 0 <= value <= 2),
        "judged_as": ("human or general", lambda value: value in get_args(Domain)),
    }
    for name, (what, is_right) in wanted.items():
        if name in values:
            if not is_right(values[name]):
                raise ValueError(f"{name} = {values[name]!r}; want {what}")
            facts[name] = values[name]
    return cast(dict[str, Any], facts)
