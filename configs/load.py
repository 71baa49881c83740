"""A YAML file and `a.b.c=value` overrides become a typed config, or a `ConfigError` that says what would be right.

Paths inside a config are relative to the working directory of the process: what `ray job submit --working-dir .`
unpacks, or the folder the command was typed in. They are left as they are written, so that a resolved config can be
read on another machine.

The YAML is safe, and as a person reads it: YAML 1.2's plain values, and a key that stands twice is an error. (PyYAML
follows YAML 1.1: `1e-4` is text, `no` is false, `010` is eight, and the second of two equal keys wins.)
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from configs import paths
from configs.keys import Location, default_at, dotted, nearest_key, shown
from configs.schema import RunConfig

Schema = TypeVar("Schema", bound=BaseModel)
TAG = "tag:yaml.org,2002:"


class ConfigError(ValueError):
    """The configuration cannot be used. The message names the file, the key, the value and what would be right."""


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> RunConfig:
    """A run's config; see `load_as`."""
    return load_as(RunConfig, path, overrides)


def load_as(schema: type[Schema], path: Path | str, overrides: Iterable[str] = ()) -> Schema:
    """Read the file, put the overrides in, and check every value against the schema.

    overrides: `a.b.c=value`. A number is an index into a list (`stages.0.steps=10`), and the value is read as
    YAML reads it (`null`, `true`, `1e-4`, `[3.0, 5.0]`, text).

    Raises ConfigError that lists every mistake, one a line.
    """
    path = paths.path(path)
    tree, lines = _read(path)
    overridden = {_put(schema, tree, override) for override in overrides}
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        origin = partial(_origin, path, lines, overridden)
        found = [_explain(schema, dict(problem), origin) for problem in error.errors()]
        raise ConfigError("\n".join(found)) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        why = str(error.strerror).lower()
        raise ConfigError(f"{path}: cannot be read ({why}); name a YAML file, such as configs/miniature.yaml") from None
    try:
        tree, lines = _parse(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = "" if isinstance(error, _Refused) else "not YAML: "
        raise ConfigError(f"{path}, line {line}, column {column}: {what}{message}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigError(f"{path}, line {line}, column {column}: not YAML: {error.reason}") from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise ConfigError(f"{path}: holds {found}; a config is `key: value` lines, as in configs/miniature.yaml")
    return tree, lines


class _Refused(yaml.MarkedYAMLError):
    """YAML, but not what a config may hold."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's core values. It builds plain dicts, lists, text, numbers, booleans and None only."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise _Refused(problem="aliases are not read; write the value out", problem_mark=mark)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(TAG + _tag, re.compile(_pattern), list(_first))


def _parse(text: str) -> tuple[Any, dict[Location, int]]:
    """The document, and the line of every key and list item in it. Raises yaml.YAMLError."""
    loader, lines = _Loader(text), {}
    root = loader.get_single_node()
    if root is None:
        return None, lines
    _note_lines(root, (), lines)
    return loader.construct_document(root), lines


def _note_lines(node: yaml.Node, location: Location, lines: dict[Location, int]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*location, index)] = item.start_mark.line + 1
            _note_lines(item, (*location, index), lines)
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if not isinstance(key, yaml.ScalarNode) or key.tag != TAG + "str":
            raise _Refused(problem="a key has to be plain text", problem_mark=key.start_mark)
        below = (*location, key.value)
        if below in lines:
            again = f"{dotted(below)} stands here and in line {lines[below]}; keep one"
            raise _Refused(problem=again, problem_mark=key.start_mark)
        lines[below] = key.start_mark.line + 1
        _note_lines(value, below, lines)


def _put(schema: type[BaseModel], tree: dict[str, Any], override: str) -> Location:
    """Set one override in the tree, in place; return its place."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {shown(override)}: write it as key=value, for example learner.beta=500")
    try:
        value, _ = _parse(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise ConfigError(f"override {shown(override)}: the value cannot be read: {error}") from None
    location = _location(key)
    node: Any = tree
    for depth, part in enumerate(location[:-1], start=1):
        _check_step(node, location[:depth], override)
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = default_at(schema, location[:depth])
        node = node[part]
    _check_step(node, location, override)
    node[location[-1]] = value
    return location


def _location(key: str) -> Location:
    """`("stages", 0, "steps")` of `stages.0.steps`."""
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))


def _check_step(node: Any, location: Location, override: str) -> None:
    """`node` has to be something that `location`'s last part can point into."""
    part, before = location[-1], dotted(location[:-1])
    if isinstance(node, list):
        if not isinstance(part, int) or part >= len(node):
            right = f"an index from 0 to {len(node) - 1}" if node else "nothing: it is empty"
            raise ConfigError(f"override {override!r}: {before} is a list of {len(node)}; {part!r} has to be {right}")
    elif not isinstance(node, dict):
        raise ConfigError(f"override {override!r}: {before} is {node!r}, which holds no {part!r}")
    elif isinstance(part, int):
        raise ConfigError(f"override {override!r}: {before or 'a config'} has named keys, not an index {part}")


def _explain(schema: type[BaseModel], problem: dict[str, Any], origin: Callable[[Location], str]) -> str:
    """One of pydantic's findings in our words, with where the value came from."""
    location: Location = tuple(problem["loc"])
    if location[:1] == ("stages",):  # pydantic puts the kind of a stage between its number and its keys
        location = (*location[:2], *location[3:])
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        location = (*location, "kind")
        problem = {**problem, "input": problem["input"].get("kind")}
    message = str(problem["msg"])
    if problem["type"] == "value_error":
        sentences = message.removeprefix("Value error, ").splitlines()
        return "\n".join(f"{origin(_location(each.split(' = ')[0]))}: {each}" for each in sentences)
    where = origin(location)
    if problem["type"] == "extra_forbidden":
        suggestion = nearest_key(schema, location)
        right = f"did you mean {suggestion}?" if suggestion else "see configs/schema.py for the known ones"
        return f"{where}: {dotted(location)} = {shown(problem['input'])}: unknown key; {right}"
    if problem["type"] == "missing":
        return f"{where}: {dotted(location)} is missing; it has no default"
    if problem["type"] == "model_type":
        message = "should be a section of keys"
    return f"{where}: {dotted(location)} = {shown(problem['input'])}: {message.removeprefix('Input ')}"


def _origin(path: Path, lines: dict[Location, int], overridden: set[Location], location: Location) -> str:
    """The override, or the file and the line of the value or of the section around it."""
    places = [location[:end] for end in range(len(location), 0, -1)]
    given = [f"override {dotted(place)}" for place in places if place in overridden]
    written = [f"{path}, line {lines[place]}" for place in places if place in lines]
    return [*given, *written, str(path)][0]
