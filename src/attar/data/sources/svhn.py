"""SVHN, cropped digits, from its two MATLAB files."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from attar.data.images import ImageData
from attar.data.sources.locate import blamed_on, find, read_bytes, words
from attar.errors import MissingError, UserError

FILES = ("train_32x32.mat", "test_32x32.mat")
# The few parts of MATLAB's format that these files use, read here: scipy's reader can crash on a damaged file.
MATRIX, PACKED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
ORDERS = {b"IM": "<", b"MI": ">"}
COMPLEX = 1 << 11


def read(data_dir: Path | None, nclass: int | None, size: int | None) -> ImageData:
    """SVHN: 73,257 + 26,032 digits, 3x32x32. The files call the digit 0 class 10; here it is class 0."""
    folder = find(
        "svhn",
        lambda folder: os.path.isfile(folder / FILES[0]),
        data_dir,
        needs=FILES[0],
        put=f"{FILES[0]} and {FILES[1]}",
        subfolders=("SVHN",),
    )
    train, test = (_read_mat(folder / file) for file in FILES)
    mean, std = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
    with blamed_on(folder):
        return ImageData(*train, *test, classes=tuple("0123456789"), mean=mean, std=std, name="svhn")


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 3, 32, 32] and int64 [N]."""
    if not os.path.isfile(path):
        raise MissingError(f"{path} is missing; put it beside the other .mat file")
    try:
        content = read_mat(read_bytes(path))
    except (ValueError, struct.error, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a readable MATLAB file: {words(error)}") from error
    x, y = content.get("X"), content.get("y")
    if x is None or x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3) or x.size == 0:
        raise UserError(f"{path} must hold the cropped digits: X as uint8 [32, 32, 3, N]")
    if y is None or y.size != x.shape[3] or y.dtype.kind not in "ui" or not (y.min() >= 1 and y.max() <= 10):
        raise UserError(f"{path} must hold y: a label 1..10 for each of the {x.shape[3]} images")
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), y.reshape(-1).astype(np.int64) % 10


def read_mat(raw: bytes) -> dict[str, np.ndarray]:
    """The real arrays of numbers in a MATLAB 5 file, by name. Raises ValueError, struct.error or zlib.error."""
    order = ORDERS.get(raw[126:128])
    if order is None:
        raise ValueError("it has no header of MATLAB version 5 to 7.2")
    arrays = {}
    for kind, body in _elements(memoryview(raw)[128:], order):
        if kind == PACKED:
            kind, body = next(_elements(memoryview(zlib.decompress(body)), order), (0, body))
        if kind == MATRIX and (named := _matrix(body, order)):
            arrays[named[0]] = named[1]
    return arrays


def _elements(raw: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """The type and the bytes of each element, one after another."""
    at = 0
    while at + 8 <= len(raw):
        kind, size = struct.unpack(f"{order}II", raw[at : at + 8])
        if kind >> 16:  # a small element: up to four bytes, where the size stands else
            yield kind & 0xFFFF, raw[at + 4 : at + 4 + min(4, kind >> 16)]
            at += 8
            continue
        if at + 8 + size > len(raw):
            raise ValueError("it ends early")
        yield kind, raw[at + 8 : at + 8 + size]
        at += 8 + size + (0 if kind == PACKED else -size % 8)


def _matrix(body: memoryview, order: str) -> tuple[str, np.ndarray] | None:
    """The name and the values of a matrix; None for one of something else than real numbers."""
    parts = list(_elements(body, order))
    if len(parts) < 4:
        return None
    (_, flags), (_, dimensions), (_, name), (kind, values) = parts[:4]
    if kind not in NUMBERS or struct.unpack(f"{order}I", flags[:4])[0] & COMPLEX:
        return None
    shape = np.frombuffer(dimensions, f"{order}i4").tolist()
    array = np.frombuffer(values, f"{order}{NUMBERS[kind]}")
    if not 0 < len(shape) <= 8 or min(shape) < 0 or math.prod(shape) != len(array):
        raise ValueError(f"a matrix of shape {shape} with {len(array)} values")
    return bytes(name).decode("latin1"), array.reshape(shape, order="F")
