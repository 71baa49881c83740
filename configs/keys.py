"""What a schema knows at a place: the keys, the defaults, and the known key that an unknown one is nearest to.

And how a value stands in a message.
"""

import difflib
import reprlib
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

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
    field = field_at(schema, location)
    if field is None or field.is_required():
        return {}
    return to_jsonable_python(field.get_default(call_default_factory=True))


def nearest_key(schema: type[BaseModel], location: Location) -> str | None:
    """The known dotted key most like an unknown one, or None.

    A key of that very name in another section comes first, then the likest of its own section, then of all sections.
    """
    name, everywhere = str(location[-1]), all_keys(schema)
    siblings = [sibling for section in sections_at(schema, location[:-1]) for sibling in section.model_fields]
    close = difflib.get_close_matches(name, siblings, n=1)
    if close and name not in {key[-1] for key in everywhere}:
        return dotted((*location[:-1], close[0]))
    elsewhere = difflib.get_close_matches(name, [key[-1] for key in everywhere], n=1, cutoff=0.8)
    return next((dotted(key) for key in everywhere if elsewhere and key[-1] == elsewhere[0]), None)


def field_at(schema: type[BaseModel], location: Location) -> FieldInfo | None:
    """The field of a key, or None if there is none."""
    sections = sections_at(schema, location[:-1])
    return next((s.model_fields[str(location[-1])] for s in sections if location[-1] in s.model_fields), None)


def sections_at(schema: type[BaseModel], location: Location) -> list[type[BaseModel]]:
    """The classes that a section at a place may have: none, one, or one for each kind."""
    sections: list[type[BaseModel]] = [schema]
    for part in location:
        if isinstance(part, str):  # the index of a list of sections changes nothing about the keys
            fields = [section.model_fields[part] for section in sections if part in section.model_fields]
            sections = [each for field in fields for each in _sections_in(field.annotation)]
    return sections


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, Union, UnionType, Annotated):
        return [section for inner in get_args(annotation) for section in _sections_in(inner)]
    return []


def all_keys(section: type[BaseModel], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of a section and of those inside it; a list's items stand as `0`, and those of every kind together."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append((*before, name))
        is_list = get_origin(field.annotation) is list
        for inner in _sections_in(field.annotation):
            keys.extend(all_keys(inner, (*before, name, "0") if is_list else (*before, name)))
    return list(dict.fromkeys(keys))
