"""The documented settings are the ones there are."""

from pathlib import Path

from runtime.settings import Settings, table

DOCUMENT = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_document_holds_the_table() -> None:
    """`make settings` writes it anew."""
    assert DOCUMENT.read_text().endswith(table())


def test_every_setting_says_what_it_is() -> None:
    lines = table().splitlines()[2:]
    assert len(lines) == len(Settings.__struct_fields__)
    assert all(line.split("|")[3].strip() for line in lines)
