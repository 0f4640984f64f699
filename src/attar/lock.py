"""One process at a time in a folder: a lock that dies with the process that holds it."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from attar.errors import UserError

if sys.platform != "win32":
    import fcntl

NAME = ".lock"
POLL = 0.2  # seconds between two looks at a lock that another process holds
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)  # nobody writes there, so nothing is to be guarded


@contextmanager
def held(folder: Path, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of `folder`, which is made where it is missing and removed again where it stays empty.

    Where another process holds it: `UserError`, or with `wait` one line to `wait` and the lock as soon as it is free.
    """
    missing = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    file = _acquire(folder, wait)
    try:
        yield
    finally:
        if file is not None:
            (folder / NAME).unlink(missing_ok=True)  # before the lock is given up: a later one would be another's
            file.close()
        with suppress(OSError):  # something is in it
            for path in missing:
                path.rmdir()


def _acquire(folder: Path, wait: Callable[[str], None] | None) -> IO[str] | None:
    said = False
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / NAME).open("a", encoding="utf-8")
        except FileNotFoundError:  # the folder was removed at this moment
            continue
        except OSError as error:
            if error.errno in UNWRITABLE and folder.is_dir():
                return None
            raise
        if _lock(file):
            if _still_there(file, folder / NAME):
                return file
            file.close()
            continue
        file.close()
        if wait is None:
            raise UserError(f"another attar is at work in {folder}; wait until it is done, or name another folder")
        if not said:
            wait(f"waiting for another attar, which is at work in {folder}")
            said = True
        time.sleep(POLL)


def _lock(file: IO[str]) -> bool:
    """Whether the lock is ours now; also where the file system knows no locks."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    return True


def _still_there(file: IO[str], path: Path) -> bool:
    """Whether the file that was locked is the one that stands there: its owner before removes it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
