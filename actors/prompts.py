"""Prompt files: the conditions that a run makes videos of (`streams.py` makes requests of them)."""

from pathlib import Path

from buffers.people.manifests import Row, check_encoding
from buffers.people.rows import PromptRow, read_row
from buffers.records import Condition, condition_id
from buffers.store.pair_store import PairStore
from configs.keys import shown


def read_prompts(path: str | Path, *, max_characters: int) -> list[Condition]:
    """The conditions of a UTF-8 file: each line `prompt` or `domain<TAB>prompt`; lines that begin with `#` are skipped.

    If the path is a folder, it is a store (`apogee data ingest`), and the prompts are the store's. A prompt's id is a
    hash of its domain and text, the same in every run and file. Raises FileNotFoundError, or ValueError that names file
    and line for an empty or over-long line, an unknown domain, what is no UTF-8 text, or a file with no prompt.
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
        _condition(line, where=f"{path}, line {number}", max_characters=max_characters)
        for number, line in enumerate(lines, start=1)
        if not line.startswith("#")
    ]
    if not conditions:
        raise ValueError(f"{path}: holds no prompt; write one a line, `prompt` or `domain<TAB>prompt`")
    return conditions


def _stored_prompts(path: Path) -> list[Condition]:
    store = PairStore(path, write=False)
    ids = sorted(store.catalog.ids("conditionings"))
    conditionings = store.conditionings(ids)
    store.close()
    framed = [c.condition.prompt for c in conditionings.values() if c.first_frame is not None]
    if framed:
        raise ValueError(
            f"{path}: {len(framed)} of its {len(ids)} prompts have a first frame, the first is {shown(framed[0])}; "
            "videos that begin with a picture cannot be generated yet"
        )
    if not ids:
        raise ValueError(f"{path}: holds no prompt")
    return [conditionings[id_].condition for id_ in ids]


def _condition(line: str, *, where: str, max_characters: int) -> Condition:
    head, tab, rest = line.lstrip().partition("\t")
    values = {"domain": head, "prompt": rest} if tab else {"prompt": line}
    try:
        row: PromptRow = read_row(Row(0, values), max_characters=max_characters)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Condition(condition_id(row.prompt, row.domain), row.prompt, row.domain)
