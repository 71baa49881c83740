"""What a schema knows at a place: the keys, the defaults, and the known key that an unknown one is nearest to.

And how a value stands in a message.
"""

import difflib
import reprlib
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

Location = tuple[str | int, ...]
"""A place in a config: `("stages", 0, "steps")`."""


_cut = reprlib.Repr()
_cut.maxstring = _cut.maxother = 120
_cut.maxlist = 12
shown = _cut.repr
"""`repr` of a value for a message: cut if it is long, and characters that cannot be printed are escaped."""


def dotted(location: Location) -> str:
    """`stages.0.steps`, as overrides and messages write it."""
    return ".".join(str(part) for part in location)


def default_at(schema: type[BaseModel], location: Location) -> Any:
    """Its default at a place, as plain dicts and lists; an empty dict if it has none."""
    section = section_at(schema, location[:-1])
    field = section.model_fields.get(str(location[-1])) if section else None
    if field is None or field.is_required():
        return {}
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return default.model_dump()
    if isinstance(default, list):
        return [item.model_dump() if isinstance(item, BaseModel) else item for item in default]
    return default


def nearest_key(schema: type[BaseModel], location: Location) -> str | None:
    """The known dotted key most like an unknown one: of its own section, else of the whole config, else None."""
    name, section = str(location[-1]), section_at(schema, location[:-1])
    siblings = list(section.model_fields) if section else []
    close = difflib.get_close_matches(name, siblings, n=1)
    if close:
        return dotted((*location[:-1], close[0]))
    everywhere = all_keys(schema)
    elsewhere = difflib.get_close_matches(name, [key[-1] for key in everywhere], n=1, cutoff=0.8)
    return next((dotted(key) for key in everywhere if elsewhere and key[-1] == elsewhere[0]), None)


def section_at(schema: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The section's class at a place, or None if there is none."""
    section: type[BaseModel] | None = schema
    for part in location:
        if isinstance(part, str):  # the index of a list of sections changes nothing about the keys
            field = section.model_fields.get(part) if section else None
            section = _section_in(field.annotation) if field else None
    return section


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (list, Union, UnionType, Annotated):
        return next((found for found in map(_section_in, get_args(annotation)) if found), None)
    return None


def all_keys(section: type[BaseModel], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of a section and of those inside it; a list's items stand as `0`."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append((*before, name))
        inner = _section_in(field.annotation)
        is_list = get_origin(field.annotation) is list
        if inner:
            keys.extend(all_keys(inner, (*before, name, "0") if is_list else (*before, name)))
    return keys
