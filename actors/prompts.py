"""Prompt files: the conditions that a run makes videos of (`streams.py` makes requests of them), and their pictures."""

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from buffers.people.fingerprints import seen_fingerprint
from buffers.people.manifests import Row, check_encoding
from buffers.people.rows import PromptRow, read_row
from buffers.records import Condition, EncodedCondition, condition_id
from buffers.store.pair_store import PairStore
from configs.keys import shown
from configs.sections import SamplingConfig
from media.pictures import fit_picture, picture_size, read_picture

COLUMNS = {1: ("prompt",), 2: ("domain", "prompt"), 3: ("domain", "prompt", "first_frame")}
"""How many values a line has -> what they are."""


def read_prompts(path: str | Path, *, max_characters: int) -> list[Condition]:
    """The conditions of a UTF-8 file: each line `prompt`, `domain<TAB>prompt` or `domain<TAB>prompt<TAB>picture`.

    Lines that begin with `#` are skipped. A domain may be left empty. A picture is a file that the videos begin with,
    relative to the folder of the prompt file. If the path is a folder, it is a store (`apogee data ingest`), and the
    prompts are the store's. A prompt's id is a hash of its domain, text and picture, the same in every run and file.
    Raises FileNotFoundError, or ValueError that names file and line for an empty or over-long line, an unknown domain,
    a picture that is not there, what is no UTF-8 text, or a file with no prompt.
    """
    path = Path(path)
    if path.is_dir():
        return _stored_prompts(path)
    if not path.is_file():
        raise FileNotFoundError(f"no prompt file {path}")
    check_encoding(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}), in line {line}") from None
    # splitlines() would also split at characters that may be part of a prompt, such as U+2028.
    lines = text.removesuffix("\n").split("\n") if text else []
    conditions = [
        _condition(line, where=f"{path}, line {number}", folder=path.parent, max_characters=max_characters)
        for number, line in enumerate(lines, start=1)
        if not line.startswith("#")
    ]
    if not conditions:
        raise ValueError(f"{path}: holds no prompt; write one a line, `prompt` or `domain<TAB>prompt`")
    return conditions


def _stored_prompts(path: Path) -> list[Condition]:
    with closing(PairStore(path, write=False)) as store:
        ids = sorted(store.catalog.ids("conditionings"))
        conditionings = store.conditionings(ids)
    if not ids:
        raise ValueError(f"{path}: holds no prompt")
    return [of_store(path, conditionings[id_]) for id_ in ids]


def of_store(place: object, stored: EncodedCondition) -> Condition:
    """The condition of a store, which also says where its picture is."""
    return replace(stored.condition, picture=str(place)) if stored.first_frame is not None else stored.condition


def sized(
    conditions: Sequence[Condition], sampling: SamplingConfig, *, grid: tuple[int, int], seed: int
) -> list[Condition]:
    """The conditions, each with the size of its videos if `sampling.pixels` is given. grid: as `size_of` takes it.

    A condition without a picture draws its aspect by (seed, id). Raises ValueError that names the prompt whose aspect
    is too extreme, or that has no picture if `sampling.aspects` is empty.
    """
    return [_sized(each, sampling, grid, seed) for each in conditions] if sampling.pixels else [*conditions]


def _sized(condition: Condition, sampling: SamplingConfig, grid: tuple[int, int], seed: int) -> Condition:
    try:
        if condition.picture is not None:
            high, wide = picture_size_of(condition)
        elif sampling.aspects:
            drawn = hashlib.sha256(f"aspect/{seed}/{condition.id}".encode()).digest()
            wide, high = sampling.aspects[int.from_bytes(drawn[:8], "little") % len(sampling.aspects)]
        else:
            raise ValueError("it has no first frame: give sampling.aspects, from which its aspect is drawn")
        return replace(condition, size=sampling.size_of(high / wide, grid))
    except ValueError as error:
        raise ValueError(f"prompt {shown(condition.prompt)}: {error}") from None


def picture_size_of(condition: Condition) -> tuple[int, int]:
    """Height and width of its picture, which it has. Raises ValueError that names a file which is no picture."""
    place = str(condition.picture)
    if not _is_store(place):
        if (size := picture_size(place)) is None:
            raise ValueError(f"{place}: not a picture that can be decoded")
        return size
    height, width, _ = _stored_picture(place, condition).shape
    return height, width


def _stored_picture(place: str, condition: Condition) -> np.ndarray:
    with closing(PairStore(place, write=False)) as store:
        stored = store.conditionings([condition.id])[condition.id].first_frame
    assert stored is not None, "the condition came from this store with its picture"
    return stored.data.reshape(stored.shape)


def _is_store(place: str) -> bool:
    return "://" in place or Path(place).is_dir()


def first_frame(condition: Condition, *, height: int, width: int) -> np.ndarray | None:
    """uint8 `[height, width, 3]`, or None if its videos begin with no picture. Raises as `read_picture` does."""
    place = condition.picture
    if place is None:
        return None
    if not _is_store(place):
        return read_picture(place, height=height, width=width)
    return fit_picture(_stored_picture(place, condition), height=height, width=width, name=f"{place}, {condition.id}")


def _condition(line: str, *, where: str, folder: Path, max_characters: int) -> Condition:
    values = line.split("\t", 2)
    named = dict(zip(COLUMNS[len(values)], values, strict=True))
    if "domain" in named:
        written = named.pop("domain").lstrip()
        named |= {"domain": written} if written else {}
    try:
        row: PromptRow = read_row(Row(0, named), folder=folder, max_characters=max_characters)
        seen = seen_fingerprint(row.first_frame) if row.first_frame else ""
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {error}") from None
    picture = str(row.first_frame.absolute()) if row.first_frame else None
    return Condition(condition_id(row.prompt, row.domain, seen), row.prompt, row.domain, picture)
