"""Files: atomic writes, safetensors with one sorted JSON string of metadata, JSON, JSON lines, locks.

Nothing here reads or writes a pickle.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from attar.errors import MissingError, UserError, WriteError, log, one_line

if sys.platform != "win32":
    import fcntl

VERSION = 1  # of the file format
SUFFIX = ".safetensors"


def temporary(path: Path) -> Path:
    """A name beside `path` for what is not complete yet."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def clean(folder: Path, *names: str) -> None:
    """Remove what a killed process left of `names` ('*.safetensors' and the like) under a temporary name."""
    for path in folder.iterdir():
        matched = re.fullmatch(r"\.(.+)\.[0-9a-f]{12}", path.name)
        if matched and any(Path(matched[1]).match(name) for name in names):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():  # cannot be, and need not
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, then rename: readers see the old file or the new one.

    Raises `WriteError` when it cannot be written, such as on a full disk.
    """
    new = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.touch(exist_ok=False)
        mode = new.stat().st_mode  # what the umask leaves; a writer may make a file of its own for itself alone
        write(new)
        new.chmod(mode)
        sync(new)
        new.replace(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        new.unlink(missing_ok=True)
        raise WriteError(f"{path} cannot be written: {one_line(error)}") from error
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they lack. Raises `WriteError` where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"the folder {path} cannot be made: {one_line(error)}; name another file") from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    atomically(path, lambda name: name.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `MissingError` or `UserError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingError(f"there is no {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor], kind: str, meta: Mapping[str, Any]) -> None:
    """Write tensors and metadata of a `kind` ('set', 'member') to one safetensors file, atomically."""
    text = json.dumps({"format": VERSION, "kind": kind, **meta}, sort_keys=True)
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    atomically(path, lambda name: save_file(whole, name, metadata={"attar": text}))


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote. A missing, corrupt or foreign file raises `MissingError` or `UserError`.

    The tensors lie in the file, which is mapped into memory, at places that depend on the length of its metadata; the
    CPU's kernels round otherwise where memory is not aligned. So what is computed with them has to be a copy.
    """
    if not path.is_file():
        raise MissingError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("attar")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        meta = json.loads(text) if text is not None else None
    except (SafetensorError, ValueError, OSError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {one_line(error)}") from error
    if not isinstance(meta, dict) or "format" not in meta:
        raise UserError(f"{path} was not written by attar (it has no 'attar' metadata)")
    if meta["format"] != VERSION:
        raise UserError(f"{path} has format {meta['format']}; this attar reads format {VERSION}")
    if meta.get("kind") != kind:
        raise UserError(f"{path} holds a {meta.get('kind')}, not a {kind}")
    return tensors, meta


NAME = ".lock"
POLL = 0.2  # seconds between two looks at a lock that another process holds
MOST_TRIES = 100  # to make a folder that another process removes at the same time
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)  # nobody writes there, so nothing is to be guarded


@contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of `folder`, which is made where it is missing and removed again where it stays empty.

    Where another process holds it: `UserError`, or with `wait` one line in the log and the lock as soon as it is free.
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


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of `folder` at this moment."""
    try:
        with (folder / NAME).open("r+", encoding="utf-8") as file:  # none is made where there is none
            return not _lock(file)
    except OSError:
        return False


def busy(folder: Path) -> UserError:
    """What is said where another process holds the lock of `folder`."""
    return UserError(f"another attar is at work in {folder}; wait until it is done, or name another folder")


def _acquire(folder: Path, wait: bool) -> IO[str] | None:
    said, tries = False, 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / NAME).open("a", encoding="utf-8")
        except FileNotFoundError:  # the folder was removed at this moment, or cannot be made, as in /proc
            tries += 1
            if tries < MOST_TRIES:
                continue
            raise
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
        if not wait:
            raise busy(folder)
        if not said:
            log.info("waiting for another attar, which is at work in %s", folder)
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


def append(path: Path, values: dict[str, Any]) -> None:
    """Append one JSON object as a line, and wait until it is on the disk."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {one_line(error)}") from error


def mend(path: Path) -> None:
    """Cut off a last line that was not written to its end."""
    if path.exists():
        text = path.read_bytes()
        if not text.endswith(b"\n"):
            os.truncate(path, text.rfind(b"\n") + 1)
