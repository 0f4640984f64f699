"""Where the files of a data set are looked for, and what is said when they are nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attar.errors import MissingError, UserError


def find(
    name: str,
    is_it: Callable[[Path], bool],
    data_dir: str | Path | None,
    *,
    needs: str,
    put: str,
    hint: str = "",
    subfolders: Sequence[str] = (),
    system: Sequence[str] = (),
) -> Path:
    """The first folder for which `is_it` is true.

    Looked at: data_dir alone when it is given; else the folder named by the environment variable ATTAR_DATA,
    ./data/<name>, ./data, ~/.cache/attar/<name> and the `system` folders. In each, its subfolder <name> and the usual
    `subfolders` come before the folder itself.

    needs: what a folder has to hold; put: what the user should put there; hint: another way to get it.
    Raises MissingError with the places that were tried.
    """
    if data_dir is not None and not os.path.isdir(data_dir):
        raise MissingError(f"{name}: the folder {data_dir} given as data_dir does not exist; put {put} there{hint}")
    if data_dir is not None:
        bases = [Path(data_dir)]
    else:
        local = [Path("data") / name, Path("data"), Path.home() / ".cache" / "attar" / name]
        bases = [Path(p) for p in (os.environ.get("ATTAR_DATA"),) if p] + local + [Path(p) for p in system]
    inner = [name, *subfolders]
    for base in bases:
        for folder in [*(base / part for part in inner), base]:
            if is_it(folder):
                return folder
    tried = ", ".join(str(base) for base in bases)
    where = f"into {bases[0]}" if data_dir is not None else f"into ./data/{name}, or name their folder with --data_dir"
    raise MissingError(f"{name}: no {needs} in {tried} (nor in subfolders {', '.join(inner)}); put {put} {where}{hint}")


def read_bytes(path: Path) -> bytes:
    """The whole file; MissingError or UserError naming it when that cannot be had."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(f"{path} is missing") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Name the path in front of what a UserError raised inside says."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def words(error: BaseException) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
