"""What is fuzzed: each target makes real files as seeds, and a function that puts one input in a file's place.

The function may raise UserError; what it lets pass it has used, and asserted that it is sound.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attar.condensation import loop as condensation
from attar.condensation.state import SavedState
from attar.data.images import ImageData
from attar.data.load import load
from attar.data.sources import cifar, idx, svhn
from attar.errors import UserError
from attar.report.of_run import curve
from attar.runs import checkpoint, run_folder
from attar.runs.run_folder import RunFolder
from attar.sets import set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import layers, recipes
from attar.settings.config import FLAGS, CondenseConfig, NetworkConfig, PoolConfig
from attar.training import early_stage, pool_files

Target = tuple[list[bytes], Callable[[bytes], None]]
NETWORK = NetworkConfig(depth=1, width=0.05)


@cache
def tiny() -> ImageData:
    """Two classes of noise."""
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (8, 1, 8, 8), np.uint8))
    return ImageData(images, [0, 1] * 4, images, [0, 1] * 4, name="tiny")


def sound(data: ImageData) -> None:
    """Images can be fetched, statistics are finite, labels have their class."""
    assert data.fetch(torch.arange(min(4, len(data.labels)))).isfinite().all()
    assert int(data.labels.max()) < data.nclass and len(data.fingerprint) == 12


def condensed(root: Path) -> Target:
    """A condensed set, alone or with what is beside it."""
    images = torch.rand(4, 1, 8, 8)
    recipe = layers.as_sections(recipes.named("digits"))
    condensed = SyntheticSet(
        images, torch.tensor([0, 0, 1, 1]), 2, "single", ("a", "b"), (0.5,), (0.2,), "tiny", images, recipe
    )
    set_files.save_set(root / set_files.CONDENSED, condensed)
    seeds = [(root / name).read_bytes() for name in (set_files.CONDENSED, set_files.INITIAL)]
    turns = [0]

    def read(raw: bytes) -> None:
        turns[0] += 1
        (root / set_files.CONDENSED).write_bytes(raw if turns[0] % 4 else seeds[0])
        (root / set_files.INITIAL).write_bytes(seeds[1] if turns[0] % 4 else raw)
        found = set_files.load_set(root)
        decoded, labels = found.decoded()
        assert found.normalize(decoded).isfinite().all() and len(labels) == len(decoded)
        assert found.initial is None or found.initial.shape == found.images.shape
        recipes.overlay(recipes.named("digits"), found.recipe)

    return seeds, read


def member(root: Path) -> Target:
    """A member of a pool, in its folder."""
    early_stage.pretrain(tiny(), PoolConfig(epochs=1, models=1), NETWORK, folder=root)
    (path,) = root.iterdir()

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        pool = pool_files.load([root], tiny(), NETWORK)
        net, (one,) = pool.build(0), pool.members
        assert torch.func.functional_call(net, one.params, (torch.zeros(1, 1, 8, 8),)).isfinite().all()

    return [path.read_bytes()], read


def checkpoints(root: Path) -> Target:
    """A file of a checkpoint: noticed by its checksum, or, where the checksums were made to fit, refused or sound."""
    data = tiny()
    pool = early_stage.pretrain(data, PoolConfig(epochs=1, models=1), NETWORK)
    config = CondenseConfig(ipc=1, factor=1, init="random", niter=2, inner_loop=1, n_data=8, batch_real=4)
    kept: list[SavedState] = []
    condensation.run(data, pool, config, keep=lambda values, now: kept.append(values()))
    checkpoint.write(root, kept[0])
    files = {path: path.read_bytes() for path in sorted((root / checkpoint.CURRENT).iterdir())}
    turns = [0]

    def read(raw: bytes) -> None:
        turns[0] += 1
        changed = list(files)[turns[0] % len(files)]
        for path, good in files.items():
            path.write_bytes(raw if path == changed else good)
        fitting = turns[0] % 2 and changed.name != checkpoint.SUMS
        if fitting:
            names = (checkpoint.TENSORS, checkpoint.PLAIN)
            sums = {name: sha256((root / checkpoint.CURRENT / name).read_bytes()).hexdigest() for name in names}
            text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
            (root / checkpoint.CURRENT / checkpoint.SUMS).write_text(text, encoding="utf-8")
        values = checkpoint.load(root, lambda line: None)
        assert fitting or raw == files[changed], "a damaged checkpoint passed"
        condensed = condensation.run(data, pool, config, saved=values)
        assert condensed.images.isfinite().all() and condensed.images.shape == (2, 1, 8, 8)

    return list(files.values()), read


def recipe_files(root: Path, name: str, seeds: list[bytes]) -> Target:
    """A recipe by a file's name."""

    def read(raw: bytes) -> None:
        (root / name).write_bytes(raw)
        found = layers.resolve(FLAGS["condense"], {}, recipe=str(root / name))
        assert recipes.overlay(found, layers.as_sections(found)) == found
        if found.data.dataset not in ("digits", "fashion"):
            load(found.data.dataset, data_dir=found.data.data_dir, nclass=found.data.nclass, size=found.data.size)

    return seeds, read


def config_json(root: Path) -> Target:
    """config.json, as a recipe and as what a run folder says of itself."""
    folder = RunFolder(root)
    folder.write(run_folder.CONFIG, layers.as_sections(recipes.named("digits")) | {"attar": {"command": "attar demo"}})
    seeds, as_recipe = recipe_files(root, run_folder.CONFIG, [(root / run_folder.CONFIG).read_bytes()])

    def read(raw: bytes) -> None:
        (root / run_folder.CONFIG).write_bytes(raw)
        folder.read(run_folder.CONFIG, "attar")
        as_recipe(raw)

    return seeds, read


def toml(root: Path) -> Target:
    """A recipe file of the user's own."""
    short = b"recipe = 'digits'\nipc = 2\nlr_img = 1e-3\n[network]\nwidth = 0.5\n[evaluate]\nnetworks = ['convnet']\n"
    deep = [b"a = " + b"[" * 5000, b"a = " + b"{b=" * 5000, b"[" + b"a." * 3000 + b"a]\n"]
    return recipe_files(root, "my.toml", [layers.to_toml("digits").encode(), short, *deep])


def metrics(root: Path) -> Target:
    """metrics.jsonl, and the curve that a report draws from it."""
    folder = RunFolder(root)
    folder.event({"event": "step", "outer": 1, "inner": 2, "loss": 0.5, "seconds": 1.5})
    folder.event({"event": "evaluation", "outer": 1, "accuracy": {"convnet2": 0.5}})
    folder.event({"event": "evaluation", "outer": None, "accuracy": {"convnet2": {"mean": 0.5}}})

    def read(raw: bytes) -> None:
        (root / run_folder.METRICS).write_bytes(raw)
        for seconds, accuracy in curve(folder) or ():
            assert seconds + accuracy is not None

    return [(root / run_folder.METRICS).read_bytes()], read


def idx_files(root: Path) -> Target:
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


def cifar_files(root: Path) -> Target:
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


def svhn_files(root: Path) -> Target:
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


def images(root: Path) -> Target:
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


def cached(root: Path) -> Target:
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


# name -> what makes its seeds and its reader in an empty folder. A new kind of file needs one line here.
TARGETS: dict[str, Callable[[Path], Target]] = {
    "condensed": condensed,
    "member": member,
    "checkpoint": checkpoints,
    "config": config_json,
    "toml": toml,
    "metrics": metrics,
    "idx": idx_files,
    "cifar": cifar_files,
    "svhn": svhn_files,
    "images": images,
    "cache": cached,
}
