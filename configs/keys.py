"""What a schema knows at a place: the keys, the defaults, and the known key that an unknown one is nearest to."""

import difflib
import json
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

Location = tuple[str | int, ...]
"""A place in a config: `("stages", 0, "steps")`."""


def dotted(location: Location) -> str:
    """`stages.0.steps`, as overrides and messages write it."""
    return ".".join(str(part) for part in location)


def default_at(schema: type[BaseModel], location: Location) -> Any:
    """Its default at a place, as plain dicts and lists; an empty dict if it has none."""
    section = _section(schema, location[:-1])
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
    name, section = str(location[-1]), _section(schema, location[:-1])
    siblings = list(section.model_fields) if section else []
    close = difflib.get_close_matches(name, siblings, n=1)
    if close:
        return dotted((*location[:-1], close[0]))
    everywhere = all_keys(schema)
    elsewhere = difflib.get_close_matches(name, [key[-1] for key in everywhere], n=1, cutoff=0.8)
    return next((dotted(key) for key in everywhere if elsewhere and key[-1] == elsewhere[0]), None)


def _section(schema: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The section's class at a place, or None if there is none."""
    section: type[BaseModel] | None = schema
    for part in location:
        if isinstance(part, int):
            continue  # a list of sections: the index changes nothing about the keys
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


def reference(*schemas: type[BaseModel]) -> str:
    """Every key of the schemas as Markdown: dotted name, default, and the words below the field (docs/config.md)."""
    parts = [
        "# Every key of a config",
        "",
        "Made by `python -m configs.keys > docs/config.md` from the schema's own words.",
    ]
    for schema in schemas:
        parts += ["", f"## {schema.__name__}", "", "| key | default | what it is |", "|---|---|---|"]
        parts += [_row(schema, key) for key in all_keys(schema)]
    return "\n".join(parts) + "\n"


def _row(schema: type[BaseModel], key: tuple[str, ...]) -> str:
    section = _section(schema, tuple(int(part) if part.isdecimal() else part for part in key[:-1]))
    assert section is not None, f"{dotted(key)} is a key of no section"
    field = section.model_fields[key[-1]]
    value = field.get_default(call_default_factory=True) if not field.is_required() else None
    plain = value if isinstance(value, str | int | float | bool | None) else ""
    if isinstance(value, list) and not any(isinstance(item, BaseModel) for item in value):
        plain = value
    words = " ".join((field.description or "").split())
    default = "required" if field.is_required() else "" if plain == "" and value != "" else f"`{json.dumps(plain)}`"
    return f"| `{dotted(key)}` | {default} | {words} |"


if __name__ == "__main__":
    from configs.ranker import RankerScoringConfig, RankerTrainingConfig
    from configs.schema import RunConfig

    print(reference(RunConfig, RankerTrainingConfig, RankerScoringConfig), end="")
