"""CIFAR-10 and CIFAR-100 from their "python version": folders of pickle files, or the .tar.gz that holds them.

A pickle can run any program when it is read. These are read with stand-ins for the few names a CIFAR file uses; any
other name is refused, so a file can build lists, dictionaries, strings and numbers and nothing else.
"""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attar.data.images import ImageData
from attar.data.sources.locate import blamed_on, find, read_bytes, words
from attar.errors import MissingError, UserError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class _Version(NamedTuple):
    name: str
    folder: str  # what the archive unpacks to
    archive: str
    train: list[str]
    test: str
    meta: str
    labels: str  # key of the labels in a batch
    names: str  # key of the class names in the meta file
    nclass: int


CIFAR10 = _Version(
    name="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    train=[f"data_batch_{number}" for number in range(1, 6)],
    test="test_batch",
    meta="batches.meta",
    labels="labels",
    names="label_names",
    nclass=10,
)
CIFAR100 = _Version(
    name="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    train=["train"],
    test="test",
    meta="meta",
    labels="fine_labels",
    names="fine_label_names",
    nclass=100,
)


def cifar10(data_dir: Path | None, nclass: int | None, size: int | None) -> ImageData:
    """CIFAR-10: 50,000 + 10,000 images, 3x32x32."""
    return _read(CIFAR10, data_dir)


def cifar100(data_dir: Path | None, nclass: int | None, size: int | None) -> ImageData:
    """CIFAR-100 with its 100 fine labels: 50,000 + 10,000 images, 3x32x32."""
    return _read(CIFAR100, data_dir)


class _Dtype:
    """Stands in for numpy.dtype: remembers what was asked for."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = _text(code), ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])


class _Array:
    """Stands in for numpy.ndarray and for the functions that numpy pickles it with."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state[1:]

    def numpy(self) -> np.ndarray:
        shape, dtype, fortran, raw = self.state
        if not isinstance(dtype, _Dtype) or dtype.code[:1] not in ("u", "i") or not isinstance(raw, bytes | bytearray):
            raise ValueError("an array of something other than integers")
        values = np.frombuffer(raw, np.dtype(dtype.order.replace("|", "") + dtype.code))
        return values.reshape(shape, order="F" if fortran else "C")


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.state = (shape, dtype, order == "F", raw)
    return array


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the encoding {encoding}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in the protocols of Python 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays of numbers are read")
        return _STAND_INS[module, name]


def read_pickle(raw: bytes, path: str) -> dict[str, Any]:
    """The dictionary of a CIFAR file, keys as text, arrays as numpy arrays.

    Nothing in the file is run. Raises UserError naming `path` for anything but a dictionary of plain values and arrays.
    """
    try:
        content = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
        return {_text(key): value.numpy() if isinstance(value, _Array) else value for key, value in content.items()}
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail with almost any exception
        raise UserError(f"{path} is not a readable CIFAR file, refused: {words(error)}") from error


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _files(folder: Path, archive: str, names: Sequence[str]) -> dict[str, bytes]:
    """The contents of these files, from the folder or else from the archive in it."""
    if os.path.isfile(folder / names[0]):
        return {name: read_bytes(folder / name) for name in names}
    contents = {}
    try:
        with tarfile.open(folder / archive, "r|gz") as tar:
            for member in tar:
                base = member.name.rsplit("/", 1)[-1]
                if base in names and member.isfile() and (stream := tar.extractfile(member)):
                    contents[base] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{folder / archive} is damaged ({words(error)}); fetch it again") from error
    missing = [name for name in names if name not in contents]
    if missing:
        raise MissingError(f"{folder / archive} has no {', '.join(missing)}; fetch it again")
    return contents


def _split(batches: dict[str, dict[str, Any]], key: str, nclass: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 3, 32, 32] and int64 [N] of the batches, by path, in order."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    for path, batch in batches.items():
        missing = [name for name in ("data", key) if name not in batch]
        if missing:
            raise UserError(f"{path} has no '{missing[0]}'; it is not a batch of this data set")
        data = batch["data"]
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
            raise UserError(f"{path}: 'data' must be a uint8 array [N, 3072] of 3x32x32 images")
        values = batch[key].tolist() if isinstance(batch[key], np.ndarray) else batch[key]
        if not isinstance(values, list) or not all(isinstance(n, int) and 0 <= n < nclass for n in values):
            raise UserError(f"{path}: '{key}' must be a list of integers 0..{nclass - 1}")
        if len(values) != len(data):
            raise UserError(f"{path}: {len(data)} images but {len(values)} '{key}'")
        images.append(data.reshape(-1, 3, 32, 32))
        labels += values
    return np.concatenate(images), np.asarray(labels)


def _read(version: _Version, data_dir: Path | None) -> ImageData:
    folder = find(
        version.name,
        lambda folder: any(os.path.isfile(folder / part) for part in (version.train[0], version.archive)),
        data_dir,
        needs=f"{version.folder}/{version.train[0]} or {version.archive}",
        put=f"the folder {version.folder} or the file {version.archive} (the python version)",
        subfolders=(version.folder,),
    )
    parts = _files(folder, version.archive, [*version.train, version.test, version.meta])
    content = {part: read_pickle(raw, str(folder / part)) for part, raw in parts.items()}
    classes = content[version.meta].get(version.names)
    if not isinstance(classes, list) or len(classes) != version.nclass:
        raise UserError(f"{folder / version.meta} has no list '{version.names}' of {version.nclass} class names")
    train, test = (
        _split({str(folder / part): content[part] for part in half}, version.labels, version.nclass)
        for half in (version.train, [version.test])
    )
    with blamed_on(folder):
        return ImageData(*train, *test, classes=[_text(c) for c in classes], mean=MEAN, std=STD, name=version.name)
