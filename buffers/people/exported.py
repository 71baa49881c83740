"""What an export holds: the names of its files, and the rows of its manifest, which `rows.py` reads back."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from buffers.people.rows import EXPORTED, AnchorRow, PairRow, PromptRow
from buffers.portions import portions
from buffers.records import EncodedCondition, Judged
from buffers.store.catalog import StoredPair
from buffers.store.pair_store import PairStore

VIDEOS, EXACT, CONDITIONS, FIRST_FRAMES = "videos", "exact", "conditions", "first_frames"
"""The folders of an export."""
AT_ONCE = 256
LONGEST = 200
"""Characters of a file's name without its suffix; file systems take 255 bytes."""


def exported(folder: str, id_: str, suffix: str) -> str:
    """The path of an id's file in an export; any id makes a name of a single file, and one that is not too long."""
    name = quote(id_, safe="")
    return f"{folder}/{name if len(name) <= LONGEST else sha256(name.encode()).hexdigest()}{suffix}"


def manifest_rows(store: PairStore) -> Iterator[PromptRow]:
    """Pairs in the order in which they were stored, then anchors, then the conditions that neither of them has."""
    used: set[str] = set()
    for pairs in portions(store.catalog.pairs(), AT_ONCE):
        judged = store.judged([pair.id for pair in pairs])
        conditions = store.conditionings(pair.condition_id for pair in pairs)
        used |= conditions.keys()
        yield from (_pair_row(pair, judged[pair.id], conditions[pair.condition_id]) for pair in pairs)
    for ids in portions(store.catalog.ids("anchors"), AT_ONCE):
        anchors = {anchor.id: anchor for anchor in store.catalog.anchors(ids)}
        conditions = store.conditionings(anchor.condition_id for anchor in anchors.values())
        used |= conditions.keys()
        for id_ in ids:
            columns = _condition_columns(conditions[anchors[id_].condition_id])
            columns |= _video_columns("video", anchors[id_].video_id)
            yield AnchorRow(**columns, polarity="positive" if anchors[id_].positive else "negative", id=id_)
    alone = (id_ for id_ in store.catalog.ids("conditionings") if id_ not in used)
    for ids in portions(alone, AT_ONCE):
        yield from (PromptRow(**_condition_columns(each)) for each in store.conditionings(ids).values())


def _pair_row(pair: StoredPair, judged: Judged, conditioning: EncodedCondition) -> PairRow:
    """A and B are the videos in the order of the verdict; without a verdict, A is the chosen one."""
    (a, b), verdict = judged.in_order, judged.verdict
    columns = _condition_columns(conditioning) | _video_columns("a", a) | _video_columns("b", b)
    if pair.source == "unjudged":  # Nobody has preferred one: people are to.
        return PairRow(**columns, id=pair.id, policy_version=pair.policy_version)
    columns |= {"id": pair.id, "source": pair.source, "policy_version": pair.policy_version}
    if verdict is None:
        return PairRow(**columns, choice="a")
    if verdict.dropped:  # In doubt: people are to give the answer.
        return PairRow(**columns)
    columns |= {name: getattr(verdict, name) for name in ("label", *EXPORTED)}
    return PairRow(**columns, probabilities=list(verdict.probabilities), judged_as=verdict.domain)


def _condition_columns(conditioning: EncodedCondition) -> dict[str, Any]:
    condition = conditioning.condition
    columns: dict[str, Any] = {"prompt": condition.prompt, "domain": condition.domain, "condition_id": condition.id}
    columns["exact_condition"] = exported(CONDITIONS, condition.id, ".safetensors")
    if conditioning.first_frame is not None:
        columns["first_frame"] = exported(FIRST_FRAMES, condition.id, ".png")
    return columns


def _video_columns(name: str, id_: str) -> dict[str, Any]:
    files = {name: exported(VIDEOS, id_, ".mp4"), f"exact_{name}": exported(EXACT, id_, ".safetensors")}
    return files | {f"{name}_id": id_}
