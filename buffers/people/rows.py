"""A manifest's rows: one class per kind of row, which both reads and writes it.

    {"prompt": "a dancer", "domain": "human", "a": "1.mp4", "b": "2.mp4", "label": 3, "annotator": "ann"}
    {"prompt": "a dancer", "a": "1.mp4", "b": "2.mp4", "choice": "a"}
    {"prompt": "a dancer", "domain": "human", "video": "3.mp4", "polarity": "negative"}
    {"prompt": "a dancer", "domain": "human", "first_frame": "4.png"}

The columns tell which kind a row is. Paths are relative to the manifest's folder, as that was given. A path that leads
out of it is refused: an absolute one, or one with `..`. A link in the folder is followed, wherever it leads: a hub's
cache is a folder of links, and who put the link there meant it. An absolute path of a file in the folder is read.

Text must be text: a row with a character that UTF-8 cannot write, or with NUL, is refused. `apogee data
export` also writes exact latents beside the videos, ids, and the verdict as it was, so that nothing is lost if its
manifest is ingested. A field's description is what an error says would be right.
"""

import math
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, Field, PlainValidator, ValidationError, ValidationInfo, model_validator

from buffers.labels import LABELS, LABELS_OF, choice_of, swapped, swapped_probabilities
from buffers.people.manifests import NUMBERS, Row, made_or_why, manifest_folder, read_rows
from buffers.records import Condition, Domain
from configs.keys import shown

Kind = Literal["pair", "anchor", "prompt"]
PEOPLE = "people"
"""Rubric and ranker of a verdict that no model gave."""
EXPORTED = ("label_mass", "agreed", "first_shown", "rubric_version", "ranker_version")
"""What an exported pair says of its verdict in columns that are named as the verdict's own fields."""


@dataclass(frozen=True)
class ConditionFiles:
    """A condition as a row names it. `exact`: a file with its embeddings, as exported."""

    prompt: str
    domain: Domain | None
    first_frame: Path | None = None
    exact: Path | None = None
    id: str = ""

    @property
    def condition(self) -> Condition:
        return Condition(self.id, self.prompt, self.domain)


@dataclass(frozen=True)
class VideoFiles:
    """A video as a row names it. `exact`: a file with its latents, as exported. `shaped_as`: the picture or video whose
    aspect it gets, if not its own."""

    file: Path
    exact: Path | None = None
    id: str = ""
    shaped_as: Path | None = None


_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_PATH, _TEXT, _DOMAIN = "the path of a file", "a text", "'human' or 'general'"
_MADE_FROM = "the text that the video was, or is to be, made from"
_FOUR = "a list of four, of the labels 1 to 4, that sum to 1"


def _file(written: Any, info: ValidationInfo) -> Path:
    if not info.context:  # The row is written, or was checked before.
        return Path(written)
    given, folder = f"{info.field_name} = {shown(written)}", info.context["folder"]
    if not isinstance(written, str) or not written:
        raise ValueError(f"{given}; want {_PATH}")
    inside = Path(os.path.normpath(written))
    path = folder / inside
    leads_out = ".." in inside.parts or not path.is_relative_to(folder)
    # The folder may have two names, if one of them is a link.
    if leads_out and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"{given} leads out of the manifest's folder, {folder}; put the file or a link to it there")
    if not os.path.isfile(path):
        raise ValueError(f"{given}: no such file in {folder}{_hint(path, written)}")
    return path


def _hint(path: Path, written: str) -> str:
    """What else may be meant by a path that leads to no file."""
    if os.path.islink(path):
        return "; it is a link that leads to no file"
    if "\\" in written:
        return "; between folders, write '/'"
    alike = _names(path.parent).get(_alike(path.name), path.name)
    return f"; there is {shown(alike)}" if alike != path.name else ""


def _alike(name: str) -> str:
    """The same for names that differ in case, in spaces around them, or in how an accent is written."""
    return unicodedata.normalize("NFC", name).strip().casefold()


@lru_cache(maxsize=16)
def _names(folder: Path) -> dict[str, str]:
    """The names of a folder's files by `_alike`; none if there is no such folder."""
    try:
        return {_alike(name): name for name in os.listdir(folder)}
    except (OSError, ValueError):
        return {}


def _prompt(text: str, info: ValidationInfo) -> str:
    prompt, longest = text.strip(), (info.context or {}).get("max_characters", math.inf)
    if not prompt:
        raise ValueError(f"prompt = {shown(text)}; want {_MADE_FROM}")
    if len(prompt) > longest:
        raise ValueError(f"prompt has {len(prompt)} characters, prompts.max_characters = {longest}")
    return prompt


def _field(default: Any, wanted: str, **limits: Any) -> Any:
    return Field(default, description=wanted, **limits)


File = Annotated[Path, PlainValidator(_file)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Annotator = Annotated[str | int, AfterValidator(lambda who: re.sub(r"^(\d+)\.0$", r"\1", str(who)))]
"""A name or a number; pandas writes 4.0 for 4 into a CSV file if there are gaps."""


class _Row(BaseModel, extra="forbid", strict=True):
    """Unknown columns and values of another type are refused."""


class _Comparison(_Row):
    """What people said of two videos: a label (1 to 4), or only a choice."""

    a: File = _field(..., _PATH)
    b: File = _field(..., _PATH)
    domain: Domain | None = _field(None, _DOMAIN)
    label: int | None = _field(None, "1, 2, 3 or 4, as a number", ge=LABELS[0], le=LABELS[-1])
    choice: Literal["a", "b"] | None = _field(None, "'a' or 'b'")

    @model_validator(mode="after")
    def _two_videos_and_one_answer(self, info: ValidationInfo) -> "_Comparison":
        if info.context and self.a.samefile(self.b):
            raise ValueError(f"a and b are the same file, {os.path.relpath(self.a, info.context['folder'])}")
        # A pair that the judge was in doubt about is written without an answer.
        if info.context and (self.label is None) == (self.choice is None):
            raise ValueError("want either a label (1 to 4) or a choice ('a' or 'b')")
        return self

    @property
    def answer(self) -> int | str:
        return self.label or self.choice or ""


class LabelledPair(_Comparison):
    """A row for the judge's training (`labelled_pairs.py`). `criterion`: what decided it, in the annotator's words.
    `prompt`: what both videos were made of; pairs of one prompt are alike, which the intervals of figures take in.
    `first_frame`: the picture that both were made from, of which the judge is told.

    Example: LabelledPair(a=Path("1.mp4"), b=Path("2.mp4"), domain="human", label=3)
    """

    domain: Domain = _field(..., _DOMAIN)
    criterion: str = _field("", _TEXT)
    prompt: str = _field("", _TEXT)
    first_frame: File | None = _field(None, _PATH)

    @property
    def a_is_better(self) -> bool:
        return choice_of(self.answer) == "a"

    @property
    def right(self) -> tuple[int, ...]:
        """Which of the labels 1 to 4 are right: one if the label is known, else (1, 3) or (2, 4)."""
        return (self.label,) if self.label else LABELS_OF[choice_of(self.answer)]


class PromptRow(_Row):
    """A prompt alone."""

    kind: ClassVar[Kind] = "prompt"
    sides: ClassVar[tuple[str, ...]] = ()
    prompt: Annotated[str, AfterValidator(_prompt)] = _field(..., _MADE_FROM)
    domain: Domain | None = _field(None, _DOMAIN)
    first_frame: File | None = _field(None, _PATH)
    condition_id: str = _field("", _TEXT)
    exact_condition: File | None = _field(None, _PATH)

    @property
    def condition(self) -> ConditionFiles:
        return ConditionFiles(self.prompt, self.domain, self.first_frame, self.exact_condition, self.condition_id)

    @property
    def videos(self) -> tuple[VideoFiles, ...]:
        return tuple(
            VideoFiles(getattr(self, name), getattr(self, f"exact_{name}"), getattr(self, f"{name}_id"))
            for name in self.sides
        )


class AnchorRow(PromptRow):
    """One annotator's answer about a video by itself."""

    kind: ClassVar[Kind] = "anchor"
    sides: ClassVar[tuple[str, ...]] = ("video",)
    video: File = _field(..., _PATH)
    polarity: Literal["positive", "negative"] = _field(..., "'positive' or 'negative'")
    annotator: Annotator | None = _field(None, _TEXT)
    id: str = _field("", _TEXT)
    video_id: str = _field("", _TEXT)
    exact_video: File | None = _field(None, _PATH)


class PairRow(PromptRow, _Comparison):
    """One annotator's answer about two videos. The label must fit the probabilities, which are those of labels 1 to 4.

    The fields from `source` on are those of an exported pair and its verdict.
    """

    kind: ClassVar[Kind] = "pair"
    sides: ClassVar[tuple[str, ...]] = ("a", "b")
    probabilities: list[Fraction] | None = _field(None, _FOUR, min_length=4, max_length=4)
    annotator: Annotator | None = _field(None, _TEXT)
    id: str = _field("", _TEXT)
    a_id: str = _field("", _TEXT)
    b_id: str = _field("", _TEXT)
    exact_a: File | None = _field(None, _PATH)
    exact_b: File | None = _field(None, _PATH)
    source: Literal["online", "half-online", "offline"] = _field("offline", "online, half-online or offline")
    policy_version: int = _field(0, "a number from 0 on", ge=0, lt=2**63)
    label_mass: Fraction = _field(1.0, "a number in [0, 1]")
    agreed: bool | None = _field(None, "true or false")
    first_shown: int = _field(1, "0, 1 or 2", ge=0, le=2)
    judged_as: Domain | None = _field(None, "human or general")
    rubric_version: str = _field(PEOPLE, _TEXT)
    ranker_version: str = _field(PEOPLE, _TEXT)

    @model_validator(mode="after")
    def _label_fits_probabilities(self) -> "PairRow":
        """The label must be the likeliest, or the likeliest of those that name the likelier video."""
        four = self.probabilities
        if four is None:
            return self
        if not math.isclose(sum(four), 1.0, abs_tol=1e-3):
            raise ValueError(f"probabilities = {four}; want {_FOUR}")
        if self.label is None:
            raise ValueError(f"choice = {self.choice!r} and probabilities of the four labels are given; want a label")
        share: dict[int, float] = dict(zip(LABELS, four, strict=True))
        likelier = [labels for labels in LABELS_OF.values() if 2 * sum(share[each] for each in labels) >= sum(four)]
        if all(share[self.label] < max(share[each] for each in labels) for labels in (LABELS, *likelier)):
            top = max(LABELS, key=lambda label: share[label])
            raise ValueError(f"label = {self.label} contradicts probabilities = {four}, which make {top} the likeliest")
        return self

    def from_a(self, video_id: str) -> "PairRow":
        """The same answer with this video as A; only the answer and the ids are exchanged."""
        if self.a_id == video_id:
            return self
        answer: dict[str, Any] = {"label" if self.label else "choice": swapped(self.answer)}
        if self.probabilities:
            one, two, three, four = self.probabilities
            answer["probabilities"] = list(swapped_probabilities((one, two, three, four)))
        return self.model_copy(update=answer | {"a_id": self.b_id, "b_id": self.a_id})


KINDS: Mapping[Kind, type[PromptRow]] = {kind.kind: kind for kind in (PairRow, AnchorRow, PromptRow)}

_COLUMNS = [name for name in {**PairRow.model_fields, **AnchorRow.model_fields} if name != "annotator"]
SCHEMA = pa.schema([(name, NUMBERS.get(name, pa.string())) for name in _COLUMNS])
"""The columns of an exported manifest."""


def read_row(row: Row, kind: type[_Row] | None = None, **context: Any) -> Any:
    """A row as its class, or as `kind`. `context`: the manifest's `folder`, and `max_characters` of a prompt.

    Raises ValueError that names the column, its value and what would be right.
    """
    if row.problem:
        raise ValueError(row.problem)
    values = row.values
    for name, value in values.items():
        if isinstance(value, str) and (found := _NO_TEXT.search(value)):
            raise ValueError(
                f"{name} = {shown(value)}: character {found.start() + 1}, {found[0]!r}, is no text (it is NUL, a byte "
                "that is not UTF-8, or half of a character)"
            )
    of_pair, of_anchor = "a" in values or "b" in values, "video" in values
    kind = kind or (PairRow if of_pair else AnchorRow if of_anchor else PromptRow)
    try:
        return kind.model_validate(values, context=context)
    except ValidationError as error:
        raise ValueError(_why(error, kind, values)) from None


def each_row(manifest: Path, kind: type[_Row] | None = None, **context: Any) -> Iterator[tuple[int, Any]]:
    """The number of each row of a manifest, and the row or a text that says why it cannot be used.

    Raises as `read_rows` does.
    """
    context["folder"] = manifest_folder(manifest)
    return ((row.number, made_or_why(read_row, row, kind, **context)) for row in read_rows(manifest))


def _why(error: ValidationError, kind: type[_Row], values: Mapping[str, Any]) -> str:
    """A misspelled name comes first: the column that it stands for is then missing, too."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    if first["type"] == "extra_forbidden":
        return f"unknown key {shown(first['loc'][0])}; the keys are {', '.join(kind.model_fields)}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])  # pyright: ignore[reportTypedDictNotRequiredAccess]
    name = str(first["loc"][0])
    return f"{name} = {shown(values.get(name))}; want {kind.model_fields[name].description}"
