"""Safe YAML as a person reads it: YAML 1.2's plain values, and a key that stands twice is an error.

PyYAML follows YAML 1.1, where `1e-4` is text, `no` is false, `010` is eight and the second of two equal keys wins.
"""

import re
from typing import Any, ClassVar

import yaml

from configs.keys import Location

_TAG = "tag:yaml.org,2002:"


class YamlProblem(ValueError):
    """Text that is not YAML, or holds a key twice. `line` and `column` count from one."""

    def __init__(self, message: str, *, line: int, column: int) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's core values. It builds plain dicts, lists, text, numbers, booleans and None only."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise YamlProblem("aliases are not read; write the value out", line=mark.line + 1, column=mark.column + 1)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(_pattern), list(_first))


def parse(text: str) -> tuple[Any, dict[Location, int]]:
    """The document, and the line of every key in it. Raises YamlProblem."""
    try:
        return _parse(_Loader(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise YamlProblem(f"not YAML: {message}", line=line, column=column) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise YamlProblem(f"not YAML: {error.reason}", line=line, column=column) from None


def _parse(loader: _Loader) -> tuple[Any, dict[Location, int]]:
    try:
        root = loader.get_single_node()
        if root is None:
            return None, {}
        lines: dict[Location, int] = {}
        _note_lines(root, (), lines)
        return loader.construct_document(root), lines
    finally:
        loader.dispose()


def parse_scalar(text: str) -> Any:
    """The value of an override, by the same rules. Raises YamlProblem."""
    return parse(text)[0]


def _note_lines(node: yaml.Node, location: Location, lines: dict[Location, int]) -> None:
    """Fill in the line of every key and list item, and refuse a key that stands twice in one mapping."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*location, index)] = item.start_mark.line + 1
            _note_lines(item, (*location, index), lines)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        mark = key.start_mark
        if not isinstance(key, yaml.ScalarNode) or key.tag != _TAG + "str":
            raise YamlProblem("a key has to be plain text", line=mark.line + 1, column=mark.column + 1)
        if key.value in first:
            again = f"{'.'.join(map(str, (*location, key.value)))} stands here and in line {first[key.value]}; keep one"
            raise YamlProblem(again, line=mark.line + 1, column=mark.column + 1)
        first[key.value] = mark.line + 1
        lines[(*location, key.value)] = mark.line + 1
        _note_lines(value, (*location, key.value), lines)
