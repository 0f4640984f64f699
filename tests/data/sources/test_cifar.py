"""CIFAR-10 and CIFAR-100 from pickles that are read without running anything."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from attar.data.load import load
from attar.data.sources.cifar import read_pickle

Refused = Callable[..., Any]


Pickler: Any = pickle._Pickler  # the one in Python, whose parts can be replaced


class Python2Pickler(Pickler):
    """Writes text and bytes as Python 2 wrote its `str`, as in the published files."""

    dispatch: ClassVar[dict[Any, Any]] = dict(Pickler.dispatch)

    def save_str(self, obj: str | bytes) -> None:
        raw = obj if isinstance(obj, bytes) else obj.encode("latin1")
        head = pickle.SHORT_BINSTRING + bytes([len(raw)]) if len(raw) < 256 else pickle.BINSTRING
        self.write(head + (struct.pack("<i", len(raw)) if len(raw) >= 256 else b"") + raw)
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = save_str


def published(content: Any) -> bytes:
    """Protocol 2 from Python 2 with numpy 1."""
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(content)
    return out.getvalue().replace(b"numpy._core.", b"numpy.core.")


def again(protocol: int) -> Callable[[Any], bytes]:
    return lambda content: pickle.dumps(content, protocol=protocol)


WRITERS = {"published": published, "2": again(2), "4": again(4), "5": again(5)}


def batch(n: int, nclass: int, seed: int = 0, key: bytes = b"labels") -> dict[bytes, Any]:
    data = np.random.RandomState(seed).randint(0, 256, (n, 3072), np.uint8)
    labels = [int(k) % nclass for k in range(n)]
    return {b"batch_label": b"a batch", key: labels, b"data": data, b"filenames": [b"x.png"] * n}


def write(folder: Path, name: str = "cifar10", dump: Callable[[Any], bytes] = published) -> np.ndarray:
    """All files of the data set; returns the training images [N, 3, 32, 32]."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "cifar10":
        train = {f"data_batch_{k}": batch(10, 10, seed=k) for k in range(1, 6)}
        files = {**train, "test_batch": batch(10, 10, seed=9)}
        files["batches.meta"] = {b"label_names": [b"class %d" % k for k in range(10)], b"num_vis": 3072}
    else:
        train = {"train": batch(100, 100, key=b"fine_labels")}
        files = {**train, "test": batch(20, 100, seed=1, key=b"fine_labels")}
        files["meta"] = {b"fine_label_names": [b"class %d" % k for k in range(100)], b"coarse_label_names": []}
    for file, content in files.items():
        (folder / file).write_bytes(dump(content))
    return np.concatenate([b[b"data"] for b in train.values()]).reshape(-1, 3, 32, 32)


def test_the_writer_writes_what_was_published() -> None:
    raw = published(batch(3, 10))
    assert raw.startswith(b"\x80\x02}q\x00(U\x0bbatch_label") and b"numpy.core.multiarray\n_reconstruct" in raw
    assert b"_codecs" not in raw


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(("name", "nclass"), [("cifar10", 10), ("cifar100", 100)])
def test_reads_what_was_written(writer: str, name: str, nclass: int, tmp_path: Path) -> None:
    inner = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    images = write(tmp_path / "here" / inner, name, WRITERS[writer])
    for place in (tmp_path / "here", tmp_path / "here" / inner):
        data = load(name, data_dir=place)
        assert (data.images.numpy() == images).all()
        assert data.test_images is not None and data.test_labels is not None
        assert data.classes == tuple(f"class {k}" for k in range(nclass))
        assert data.labels.tolist() == [k % 10 for k in range(50)] if nclass == 10 else list(range(100))
        assert (data.name, data.mean[0], data.std[2]) == (name, 0.4914, 0.2010)


def test_keys_as_text_and_labels_as_arrays(tmp_path: Path) -> None:
    def dump(content: dict[bytes, Any]) -> bytes:
        text = {key.decode(): value for key, value in content.items()}
        if "labels" in text:
            text["labels"] = np.array(text["labels"], ">i4")
            text["data"] = np.asfortranarray(text["data"])
        return pickle.dumps(text)

    images = write(tmp_path / "data" / "cifar10", dump=dump)
    data = load("cifar10", nclass=3)
    assert (data.images.numpy() == images[[k for k in range(50) if k % 10 < 3]]).all() and data.nclass == 3


def test_the_archive_as_it_was_fetched(tmp_path: Path, refused: Refused) -> None:
    images = write(tmp_path / "unpacked")
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "unpacked", "cifar-10-batches-py")
    assert (load("cifar10").images.numpy() == images).all()
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"nothing of the kind"):
        archive.write_bytes(damaged)
        with refused("cifar-10-python.tar.gz", "fetch it again"):
            load("cifar10")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "unpacked" / "data_batch_1", "cifar-10-batches-py/data_batch_1")
    with refused("has no data_batch_2", "batches.meta"):
        load("cifar10")


class Runs:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("function", [os.system, builtins.exec, builtins.eval, np.save])
def test_a_malicious_pickle_is_refused_and_not_run(
    function: Callable[..., Any], protocol: int, tmp_path: Path, refused: Refused
) -> None:
    ran = tmp_path / "ran"
    text = f"touch {ran}" if function is os.system else f"__import__('os').mkdir({str(ran)!r})"
    arguments = (str(ran), np.zeros(1)) if function is np.save else (text,)
    evil = {**batch(10, 10), b"extra": Runs(function, *arguments)}
    folder = tmp_path / "data" / "cifar10"
    write(folder)
    (folder / "data_batch_3").write_bytes(pickle.dumps(evil, protocol=protocol))
    with refused("data_batch_3", "refused", function.__name__):
        load("cifar10")
    assert not list(tmp_path.glob("ran*"))
    pickle.loads((folder / "data_batch_3").read_bytes())  # it would have run
    assert list(tmp_path.glob("ran*"))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", ["refused"]),
        (b"not a pickle", ["refused"]),
        (published(batch(10, 10))[:-500], ["refused"]),
        (pickle.dumps([1, 2]), ["no dictionary"]),
        (pickle.dumps({b"data": np.array(["text"])}), ["other than integers"]),
        (pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}), ["other than integers"]),
        (b"\x80\x02ccodecs\nencode\n.", ["codecs.encode"]),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", ["rot13"]),
        (b"\x80\x02}(]K\x01u.", ["refused"]),  # a list as a key
        (b"\x80\x02}U\x04datacnumpy\nndarray\n)Rs.", ["refused"]),  # an array without content
    ],
)
def test_damaged_and_foreign_pickles(raw: bytes, words: list[str], refused: Refused) -> None:
    with refused("some/file", *words):
        read_pickle(raw, "some/file")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({b"data": np.zeros((10, 100), np.uint8)}, ["[N, 3072]"]),
        ({b"data": np.zeros((10, 3072), np.int64)}, ["uint8"]),
        ({b"data": [1, 2]}, ["uint8"]),
        ({b"data": None}, ["uint8"]),
        ({b"labels": [0] * 9}, ["10 images but 9"]),
        ({b"labels": [10] * 10}, ["integers 0..9"]),
        ({b"labels": [-1] * 10}, ["integers 0..9"]),
        ({b"labels": [10**30] * 10}, ["integers 0..9"]),
        ({b"labels": ["a"] * 10}, ["integers 0..9"]),
        ({b"labels": "abcdefghij"}, ["integers 0..9"]),
        ({b"labels": np.zeros((10, 1), np.int64)}, ["integers 0..9"]),
    ],
)
def test_wrong_content(change: dict[bytes, Any], words: list[str], tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "data" / "cifar10"
    write(folder)
    (folder / "data_batch_2").write_bytes(pickle.dumps(batch(10, 10) | change))
    with refused("data_batch_2", *words):
        load("cifar10")


def test_missing_parts(tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "data" / "cifar10"
    write(folder)
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"one"]}))
    with refused("batches.meta", "10 class names"):
        load("cifar10")
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": batch(10, 10)[b"data"]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a"] * 10}))
    with refused("test_batch", "no 'labels'"):
        load("cifar10")
    (folder / "data_batch_4").unlink()
    with refused("data_batch_4", "missing"):
        load("cifar10")
    write(folder)
    for number in range(1, 6):
        one = batch(10, 10)
        one[b"labels"] = [0, 1] * 5
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(one))
    with refused("data/cifar10", "class 2 ('class 2')", "no training images"):
        load("cifar10")
