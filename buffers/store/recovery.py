"""What happens when a store is opened: its catalog catches up with its commits, and torn files are set aside."""

from dataclasses import dataclass

from buffers.store import arrow
from buffers.store.catalog import Catalog
from buffers.store.commits import commit_name, commits_after, segment_name
from buffers.store.places import Place
from media.whole import TEMPORARY

_FIRST_SCHEMA = "manifest.jsonl"
"""What stores of schema version 1 had in place of commits."""


@dataclass(frozen=True)
class Recovery:
    """What opening a store found wrong; all empty after a clean stop.

    `set_aside`: name of a file -> why it was moved to `set_aside/`. `missing`: a file that a commit names -> what is
    wrong with it. Opening looks only at commits that it has not seen before (`PairStore.verify` reads all).
    """

    set_aside: dict[str, str]
    missing: dict[str, str]

    def __bool__(self) -> bool:
        return bool(self.set_aside or self.missing)


def recover(place: Place, catalog: Catalog, *, write: bool) -> Recovery:
    """Raises ValueError, before anything is touched, if a newer Apogee added to the store, or one too old made it."""
    if place.size(_FIRST_SCHEMA) is not None:
        raise ValueError(
            f"{place} is a store of schema version 1, this Apogee reads 2 to {arrow.SCHEMA_VERSION}: go on with the "
            "run in the Apogee that began it, or give the new run another folder"
        )
    if not fits(place, catalog):
        catalog.forget()
    missing = catch_up(place, catalog)
    return Recovery(_set_aside_torn(place, catalog.commits + 1) if write else {}, missing)


def catch_up(place: Place, catalog: Catalog) -> dict[str, str]:
    """Adds the commits that the catalog does not know; returns which of their files are missing, and how."""
    missing: dict[str, str] = {}
    for commit in commits_after(place, catalog.commits):
        # Rows of a lost segment are not entered; the next opening looks for the segment again.
        lost = {segment.kind for segment in commit.segments if segment.name in commit.missing}
        whole = {kind: rows for kind, rows in commit.rows.items() if kind not in lost}
        catalog.add(commit.number, commit.segments, whole, incomplete=bool(commit.missing))
        missing |= commit.missing
    return missing


def fits(place: Place, catalog: Catalog) -> bool:
    """True if the catalog belongs to this store, and no file was missing when the catalog was filled.

    The newest commit that the catalog knows must be there: somebody may have copied another store's catalog here.
    """
    seen = catalog.commits == 0 or place.size(commit_name(catalog.commits)) is not None
    return seen and not catalog.incomplete


def _set_aside_torn(place: Place, number: int) -> dict[str, str]:
    """Sets aside the files of the append that was under way when the writer stopped. Their names are known."""
    names = [*(segment_name(kind, number) for kind in arrow.TABLES), commit_name(number)]
    reasons = dict.fromkeys(names, "its writer stopped before it was acknowledged")
    reasons |= {name + TEMPORARY: "not finished when its writer stopped" for name in names}
    torn = {name: why for name, why in reasons.items() if place.size(name) is not None}
    return {name: f"{why}; now {place.set_aside(name)}" for name, why in torn.items()}
