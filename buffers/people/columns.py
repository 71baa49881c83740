"""Columns that several manifests have, each checked: an error names the column, its value and what is right."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from buffers.labels import LABELS, LABELS_OF
from buffers.records import Domain


def check_names(row: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises ValueError that names the first column which is not among `known`."""
    unknown = sorted(row.keys() - set(known))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; the keys are {', '.join(known)}")


def file_of(row: Mapping[str, Any], name: str, folder: Path) -> Path:
    """The file that a row names, relative to the manifest's folder. Raises ValueError where it is not in there."""
    written = row.get(name)
    if not isinstance(written, str) or not written:
        raise ValueError(f"{name} = {written!r}; want the path of a file")
    path = (folder / written).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"{name} = {written!r} leads out of the manifest's folder")
    if not path.is_file():
        raise ValueError(f"{name} = {written!r}: no such file in {folder}")
    return path


def domain_of(row: Mapping[str, Any]) -> Domain:
    """Raises ValueError for any other than the two domains."""
    domain = row.get("domain")
    if domain not in get_args(Domain):
        raise ValueError(f"domain = {domain!r}; want {' or '.join(map(repr, get_args(Domain)))}")
    return cast(Domain, domain)


def text_of(row: Mapping[str, Any], name: str, *, default: str = "") -> str:
    """Raises ValueError for anything but a text."""
    value = row.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name} = {value!r}; want a text")
    return value


def answer_of(row: Mapping[str, Any]) -> int | str:
    """What an annotator said of two videos: a label (1 to 4), or a choice ('a' or 'b')."""
    label, choice = row.get("label"), row.get("choice")
    if (label is None) == (choice is None):
        raise ValueError("want either a label (1 to 4) or a choice ('a' or 'b')")
    if label is None:
        if choice not in LABELS_OF:
            raise ValueError(f"choice = {choice!r}; want 'a' or 'b'")
        return cast(str, choice)
    if type(label) is not int or label not in LABELS:
        raise ValueError(f"label = {label!r}; want 1, 2, 3 or 4")
    return label
