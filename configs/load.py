"""A YAML file and `a.b.c=value` overrides become a typed config, or a `ConfigError` that says what would be right.

Paths inside a config are relative to the working directory of the process: what `ray job submit --working-dir .`
unpacks, or the folder the command was typed in. They are left as they are written, so that a resolved config can be
read on another machine.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from configs.keys import Location, default_at, dotted, nearest_key
from configs.schema import RunConfig
from configs.strict_yaml import YamlProblem, parse, parse_scalar

Schema = TypeVar("Schema", bound=BaseModel)


class ConfigError(ValueError):
    """The configuration cannot be used. The message names the file, the key, the value and what would be right."""


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> RunConfig:
    """A run's config; see `load_as`."""
    return load_as(RunConfig, path, overrides)


def load_as(schema: type[Schema], path: Path | str, overrides: Iterable[str] = ()) -> Schema:
    """Read the file, put the overrides in, and check every value against the schema.

    overrides: `a.b.c=value`, where a number is an index into a list (`stages.0.steps=10`) and the value is read as
    YAML reads it (`null`, `true`, `1e-4`, `[3.0, 5.0]`, text).

    Raises ConfigError that lists every mistake, one a line.
    """
    path = Path(path)
    tree, lines = _read(path)
    overridden: set[Location] = set()
    for override in overrides:
        overridden.add(_put(schema, tree, override))
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        found = [_explain(schema, dict(problem), path, lines, overridden) for problem in error.errors()]
        raise ConfigError("\n".join(found)) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; name a YAML file, such as configs/miniature.yaml") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a folder; name a YAML file in it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        tree, lines = parse(text)
    except YamlProblem as problem:
        raise ConfigError(f"{path}, line {problem.line}, column {problem.column}: {problem}") from None
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise ConfigError(f"{path}: holds {found}; a config is `key: value` lines, as in configs/miniature.yaml")
    return tree, lines


def _put(schema: type[BaseModel], tree: dict[str, Any], override: str) -> Location:
    """Set one override in the tree, in place; answer where."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {override!r}: write it as key=value, for example learner.beta=500")
    try:
        value = parse_scalar(text)
    except YamlProblem as problem:
        raise ConfigError(f"override {override!r}: the value cannot be read: {problem}") from None
    location = _location(key)
    node: Any = tree
    for depth, part in enumerate(location):
        _check_step(node, location[: depth + 1], override)
        if depth == len(location) - 1:
            node[part] = value
            break
        missing = isinstance(node, dict) and node.get(part) is None
        if missing:
            node[part] = default_at(schema, location[: depth + 1])
        node = node[part]
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


def _explain(
    schema: type[BaseModel],
    problem: dict[str, Any],
    path: Path,
    lines: dict[Location, int],
    overridden: set[Location],
) -> str:
    """One of pydantic's findings in our words, with where the value came from."""
    location: Location = tuple(problem["loc"])
    if location[:1] == ("stages",):  # pydantic puts the kind of a stage between its number and its keys
        location = (*location[:2], *location[3:])
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        location = (*location, "kind")
        problem = {**problem, "input": problem["input"].get("kind")}
    message = str(problem["msg"])
    if problem["type"] == "value_error":
        return "\n".join(
            f"{_origin(_location(line.split(' = ')[0]), path, lines, overridden)}: {line}"
            for line in message.removeprefix("Value error, ").splitlines()
        )
    where = _origin(location, path, lines, overridden)
    if problem["type"] == "extra_forbidden":
        suggestion = nearest_key(schema, location)
        right = f"did you mean {suggestion}?" if suggestion else "see configs/schema.py for the known ones"
        return f"{where}: {dotted(location)} = {problem['input']!r}: unknown key; {right}"
    if problem["type"] == "missing":
        return f"{where}: {dotted(location)} is missing; it has no default"
    if problem["type"] == "model_type":
        message = "should be a section of keys"
    return f"{where}: {dotted(location)} = {problem['input']!r}: {message.removeprefix('Input ')}"


def _origin(location: Location, path: Path, lines: dict[Location, int], overridden: set[Location]) -> str:
    """The override, or the file and the line of the value or of the section around it."""
    for end in range(len(location), 0, -1):
        if location[:end] in overridden:
            return f"override {dotted(location[:end])}"
        if location[:end] in lines:
            return f"{path}, line {lines[location[:end]]}"
    return str(path)
