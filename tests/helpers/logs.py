"""What attar said."""

from __future__ import annotations

import logging

import pytest


def lines(caplog: pytest.LogCaptureFixture, level: str = "INFO") -> list[str]:
    """The lines of the log from a level on."""
    return [record.getMessage() for record in caplog.records if record.levelno >= getattr(logging, level)]
