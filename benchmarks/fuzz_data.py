"""Fuzz targets: files of real images, as the authors of the data sets or users have them, and attar's cache of them."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attar.data.images import ImageData
from attar.data.load import load
from attar.data.sources import cifar, idx, svhn
from attar.errors import UserError

FuzzTarget = tuple[list[bytes], Callable[[bytes], None]]  # real files, and a reader of one input


def sound(data: ImageData) -> None:
    """Images can be fetched, statistics are finite, labels have their class."""
    assert data.fetch(torch.arange(min(4, len(data.labels)))).isfinite().all()
    assert int(data.labels.max()) < data.nclass and len(data.fingerprint) == 12


def idx_files(root: Path) -> FuzzTarget:
    """One of the four files of Fashion-MNIST, gzipped or not."""
    random = np.random.RandomState(0)
    images = bytes((0, 0, 8, 3)) + np.array([20, 28, 28], ">u4").tobytes() + random.bytes(20 * 784)
    labels = bytes((0, 0, 8, 1)) + np.array([20], ">u4").tobytes() + bytes([*range(10)] * 2)
    seeds = [images, labels, gzip.compress(images), gzip.compress(labels)]
    names = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    turns = [0]

    def read(raw: bytes) -> None:
        turns[0] += 1
        for number, name in enumerate(names):
            (root / name).write_bytes(raw if number == turns[0] % 4 else (images, labels)[number % 2])
        sound(idx.fashion(root, None, None))

    return seeds, read


def cifar_files(root: Path) -> FuzzTarget:
    """A batch, the meta file or the archive of CIFAR-10."""
    data = np.random.RandomState(0).randint(0, 256, (20, 3072), np.uint8)
    batch = [pickle.dumps({"data": data, "labels": [*range(10)] * 2}, protocol) for protocol in (2, 4)]
    old = pickle.dumps({b"data": data, b"labels": [*range(10)] * 2}, 1)
    meta = pickle.dumps({"label_names": [f"c{n}" for n in range(10)]}, 2)
    names = [*cifar.CIFAR10.train, cifar.CIFAR10.test, cifar.CIFAR10.meta]
    whole = dict.fromkeys(names, batch[0]) | {cifar.CIFAR10.meta: meta}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        for name, raw in whole.items():
            head = tarfile.TarInfo(f"{cifar.CIFAR10.folder}/{name}")
            head.size = len(raw)
            tar.addfile(head, io.BytesIO(raw))
    turns = [0]

    def read(raw: bytes) -> None:
        turns[0] += 1
        packed = turns[0] % 4 == 0
        for name, good in whole.items():
            (root / name).write_bytes(raw if name == names[turns[0] % len(names)] else good)
        (root / cifar.CIFAR10.archive).write_bytes(raw)
        if packed:
            (root / names[0]).unlink()
        sound(cifar.cifar10(root, None, None))

    return [*batch, old, meta, archive.getvalue()], read


def svhn_files(root: Path) -> FuzzTarget:
    """A .mat file of SVHN, packed or not."""
    from scipy.io import savemat

    random, seeds = np.random.RandomState(0), []
    for packed in (False, True):
        for name in svhn.FILES:
            x = random.randint(0, 256, (32, 32, 3, 20), np.uint8)
            savemat(root / name, {"X": x, "y": np.array([*range(1, 11)] * 2)[:, None]}, do_compression=packed)
        seeds.append((root / svhn.FILES[0]).read_bytes())

    def read(raw: bytes) -> None:
        (root / svhn.FILES[0]).write_bytes(raw)
        sound(svhn.read(root, None, None))

    return seeds, read


def pictures(root: Path) -> tuple[Path, list[bytes]]:
    """A folder of two classes, and one image in many formats."""
    random = np.random.RandomState(0)
    for place in ("train/a", "train/b", "test/a"):
        (root / "set" / place).mkdir(parents=True)
        for number in range(2):
            pixels = random.randint(0, 256, (12, 14, 3), np.uint8)
            Image.fromarray(pixels).save(root / "set" / place / f"{number}.png")
    image, seeds = Image.fromarray(pixels), []
    for kind, mode in (
        *(
            ("JPEG", "RGB"),
            ("JPEG", "L"),
            ("JPEG", "CMYK"),
            ("PNG", "RGB"),
            ("PNG", "P"),
            ("PNG", "I;16"),
            ("PNG", "LA"),
        ),
        *(("GIF", "P"), ("BMP", "RGB"), ("WEBP", "RGB"), ("TIFF", "RGB"), ("PPM", "RGB")),
    ):
        made = Image.new(mode, (14, 12)) if mode == "I;16" else image.convert(mode)
        buffer = io.BytesIO()
        made.save(buffer, kind, **({"exif": image.getexif()} if kind == "JPEG" else {}))
        seeds.append(buffer.getvalue())
    return root / "set", seeds


def images(root: Path) -> FuzzTarget:
    """An image in a folder of images."""
    folder, seeds = pictures(root)
    ends = ("png", "jpg", "gif", "bmp", "webp", "tif", "ppm")
    turns = [0]

    def read(raw: bytes) -> None:
        turns[0] += 1
        path = folder / "train" / "a" / f"x.{ends[turns[0] % len(ends)]}"
        path.write_bytes(raw)
        try:
            sound(load(folder, size=8))
        finally:
            path.unlink()

    return seeds, read


def cached(root: Path) -> FuzzTarget:
    """A file of the cache of a folder: refused or built anew, and never another image."""
    folder, _ = pictures(root)
    whole = load(folder, size=8)
    load(folder, size=8, cache_dir=root / "c")
    (place,) = (path for path in (root / "c" / "images").iterdir() if path.is_dir())
    files = {path: path.read_bytes() for path in sorted(place.iterdir())}
    work = place.with_name(f"{place.name}.building")
    turns = [0]

    def read(raw: bytes) -> None:
        turns[0] += 1
        path = list(files)[turns[0] % len(files)]
        for name, good in files.items():
            name.write_bytes(raw if name == path else good)
        if turns[0] % 5 == 0:  # what a killed build left
            place.rename(work)
            (work / "journal.jsonl").write_bytes(raw)
        try:
            found = load(folder, size=8, cache_dir=root / "c")
            assert torch.equal(found.fetch(torch.arange(4)), whole.fetch(torch.arange(4)))
            assert (found.fingerprint, found.mean, found.std) == (whole.fingerprint, whole.mean, whole.std)
        except UserError:
            again = load(folder, size=8, cache_dir=root / "c")
            assert torch.equal(again.fetch(torch.arange(4)), whole.fetch(torch.arange(4)))
            raise

    return list(files.values()), read
