"""docs/inputs.md says of every kind of input what the tests hold."""

from pathlib import Path

from docs.inputs_page import page, tables

PAGE = Path(__file__).parents[1] / "docs" / "inputs.md"


def test_the_page_is_what_the_tests_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m docs.inputs_page > docs/inputs.md"


def test_every_kind_has_words() -> None:
    assert all(kind and words for rows in tables().values() for kind, words in rows.items())
