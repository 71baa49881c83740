"""Writes docs/config.md, every key of a config as a table: `python -m docs.config_page > docs/config.md`."""

import json
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.keys import all_keys, dotted, field_at
from configs.ranker import RankerScoringConfig, RankerTrainingConfig
from configs.schema import RunConfig

SCHEMAS = (RunConfig, RankerTrainingConfig, RankerScoringConfig)

HEAD = """# Every key of a config

Made by `python -m docs.config_page > docs/config.md` from the schema's own words.
"""


def page() -> str:
    """Markdown: of every key its dotted name, its default, and the words below the field."""
    parts = [HEAD]
    for schema in SCHEMAS:
        parts += [f"## {schema.__name__}\n", "| key | default | what it is |", "|---|---|---|"]
        parts += [*(_row(schema, key) for key in all_keys(schema)), ""]
    return "\n".join(parts).rstrip("\n") + "\n"


def _row(schema: type[BaseModel], key: tuple[str, ...]) -> str:
    field = field_at(schema, tuple(int(part) if part.isdecimal() else part for part in key))
    assert field is not None, f"{dotted(key)} is a key of no section"
    words = " ".join((field.description or "").split())
    return f"| `{dotted(key)}` | {_default(field)} | {words} |"


def _default(field: FieldInfo) -> str:
    """As JSON; nothing if the default is a section, whose keys follow with their own."""
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    holds_sections = any(isinstance(item, BaseModel) for item in (value if isinstance(value, list) else [value]))
    return "" if holds_sections or value == {} else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(page(), end="")
