"""The smallest schedule that still does everything, and the command line in this process."""

from __future__ import annotations

import pytest

from attar.cli.parser import main

POOL = ("--width", "0.05", "--pt_from", "1", "--model_num", "2")
TINY = (*POOL, "--niter", "1", "--inner_loop", "2", "--n_data", "64")


def call(*arguments: str) -> None:
    """Run the command line; it has to exit with status 0."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command line; it has to refuse with exit status 2 and one line, the last, which is returned."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    line = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and line.startswith("attar: error: ")
    return line
