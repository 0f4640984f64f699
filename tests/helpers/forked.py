"""The command line in a process that has its modules loaded from the start, and that signals reach as any other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from pathlib import Path
from types import TracebackType
from unittest import mock

from attar.cli.parser import main


class Forked:
    """`attar` with these arguments in a child of this process, in a folder; like `subprocess.Popen` otherwise."""

    def __init__(self, *arguments: str, folder: Path, errors: Path) -> None:
        self.errors = errors
        self.process = multiprocessing.get_context("fork").Process(target=_run, args=(arguments, folder, errors))
        with warnings.catch_warnings():  # this process may have threads: none of them is needed there
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()

    @property
    def returncode(self) -> int | None:
        """The exit status, below zero where a signal ended it."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, timeout: float) -> str:
        """What it has said on standard error when it is done."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "it never ends"
        return self.errors.read_text(encoding="utf-8")

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.join()


def _run(arguments: tuple[str, ...], folder: Path, errors: Path) -> None:
    """What the child does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    with errors.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
        sys.argv, sys.stderr = ["attar", *arguments], file
        with mock.patch("torch.cuda.is_available", return_value=False):  # a fork cannot use its parent's GPU
            main(list(arguments))
