"""Type hints reach those who install attar."""

from __future__ import annotations

from importlib import resources


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("attar").joinpath("py.typed").is_file()
