"""The settings of each function for editors and type checkers are those that it takes."""

from __future__ import annotations

from helpers.typed_settings import FILE, written


def test_the_file_is_current() -> None:
    said = "python tests/helpers/typed_settings.py writes it again"
    assert FILE.read_text(encoding="utf-8") == written(), said
