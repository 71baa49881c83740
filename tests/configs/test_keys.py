"""Every key of a config has words of its own, and docs/config.md holds them."""

from pathlib import Path

from configs.keys import all_keys
from docs.config_page import SCHEMAS, page

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text() == page(), "run: python -m docs.config_page > docs/config.md"


def test_every_key_says_what_it_is() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(all_keys(schema)) for schema in SCHEMAS) > 150
    assert [row for row in rows if len(row.split(" | ")[2]) < 8] == []


def test_a_row_has_key_default_and_words() -> None:
    rows = page().splitlines()
    assert "| `learner.timesteps.shifts` | `[3.0, 4.0, 5.0, 6.0]` | The flow shifts that are drawn from. |" in rows
    assert "| `model.path` | required | The folder of the bundle, as `pipe.save_pretrained` writes it. |" in rows
