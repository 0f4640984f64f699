"""Numbers with their nouns in messages."""

from __future__ import annotations

import pytest

from attar.errors import counted


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (1200, "image", "1,200 images"), (2, "class", "2 classes")],
)
def test_one_is_not_several(count: int, noun: str, said: str) -> None:
    assert counted(count, noun) == said
