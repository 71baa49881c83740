"""Prompt files and the endless, seeded, resumable stream of requests made from them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from buffers.records import Condition, Domain, Request, condition_id
from buffers.store.pair_store import PairStore

FIRST_SEED = 2**31
"""Noise seeds of a stream lie in [2^31, 2^32): the seeds below are left to people (evaluation), so that no training
video is ever an evaluation video; torch's CPU generator keeps 32 bits."""


def read_prompts(path: str | Path, *, max_characters: int) -> list[Condition]:
    """The conditions of a UTF-8 file: each line `prompt` or `domain<TAB>prompt`; lines that begin with `#` are skipped.

    A folder is a store (`apogee data ingest`), whose conditions these are then. A prompt's id is a hash of its domain
    and text, the same in every run and file. Raises FileNotFoundError, or ValueError naming the file and line for an
    empty or over-long line, an unknown domain, or a file with no prompt.
    """
    path = Path(path)
    if path.is_dir():
        return _stored_prompts(path)
    if not path.is_file():
        raise FileNotFoundError(f"no prompt file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from None
    # Not splitlines(): that also splits at characters which may be part of a prompt, such as U+2028.
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
    ids = [id_ for (id_,) in store.rows("SELECT id FROM conditionings ORDER BY id")]
    conditionings = store.conditionings(ids)
    store.close()
    framed = [c.condition.prompt for c in conditionings.values() if c.first_frame is not None]
    if framed:
        raise ValueError(
            f"{path}: {len(framed)} of its {len(ids)} prompts have a first frame, the first is {framed[0]!r}; videos "
            "that begin with a picture cannot be generated yet"
        )
    if not ids:
        raise ValueError(f"{path}: holds no prompt")
    return [conditionings[id_].condition for id_ in ids]


def _condition(line: str, *, where: str, max_characters: int) -> Condition:
    head, tab, rest = line.lstrip().partition("\t")
    domain: Domain | None = None
    if tab:
        domain = next((known for known in get_args(Domain) if known == head), None)
        if domain is None:
            raise ValueError(f"{where}: domain {head!r} is unknown, expected one of {', '.join(get_args(Domain))}")
    prompt = (rest if tab else line).strip()
    if not prompt:
        raise ValueError(f"{where}: empty prompt; take the line out or begin it with #")
    if len(prompt) > max_characters:
        raise ValueError(f"{where}: the prompt has {len(prompt)} characters, prompts.max_characters = {max_characters}")
    return Condition(condition_id(prompt, domain), prompt, domain)


class PromptStream:
    """Requests without end: every epoch shows each condition once, in an order drawn from (seed, epoch).

    What comes next depends on the seed and on how many conditions were drawn, nothing else, so a counter is the whole
    state. Requests go on over the end of an epoch; noise seeds never repeat within 2^30 conditions.
    """

    def __init__(self, conditions: Sequence[Condition], *, per_request: int, seed: int) -> None:
        """Raises ValueError if there are no conditions."""
        if not conditions:
            raise ValueError("a prompt stream needs at least one condition")
        self._conditions = tuple(conditions)
        self._per_request = per_request
        self._seed = seed
        self._drawn = 0
        self._first_noise = int(_rng(seed, "noise").integers(2**31))
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def next(self) -> Request:
        """The next `per_request` conditions, each with two noise seeds of its own."""
        drawn = [self._draw() for _ in range(self._per_request)]
        return Request(tuple(condition for condition, _ in drawn), tuple(seeds for _, seeds in drawn))

    def state(self) -> dict[str, Any]:
        """Plain JSON values; `restore` in a stream made alike goes on exactly here."""
        return {"seed": self._seed, "drawn": self._drawn, "conditions": self._digest()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Raises ValueError if it is of another seed or other prompts."""
        here = {"seed": self._seed, "conditions": self._digest()}
        for key, value in here.items():
            if state.get(key) != value:
                raise ValueError(f"the saved prompt stream has {key} = {state.get(key)}, this run has {value}")
        self._drawn = int(state["drawn"])

    def _draw(self) -> tuple[Condition, tuple[int, int]]:
        epoch, place = divmod(self._drawn, len(self._conditions))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _rng(self._seed, "order", epoch).permutation(len(self._conditions))
        first = (self._first_noise + 2 * self._drawn) % 2**31
        self._drawn += 1
        return self._conditions[self._order[place]], (FIRST_SEED + first, FIRST_SEED + (first + 1) % 2**31)

    def _digest(self) -> str:
        return hashlib.sha256("\n".join(condition.id for condition in self._conditions).encode()).hexdigest()[:16]


def _rng(*key: object) -> np.random.Generator:
    """A generator for that key; its own bits, unlike `hash`, are the same in every process."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little"))
