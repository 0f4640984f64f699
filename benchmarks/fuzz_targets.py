"""What is fuzzed: each target makes real files as seeds, and a function that puts one input in the place of a file.

The function may raise UserError; what it accepts it has used, and asserted that it is sound.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from attar.condensation import loop as condensation
from attar.condensation.setup import set_up
from attar.condensation.state import init, restore, snapshot
from attar.data.images import ImageData
from attar.data.load import load
from attar.report.of_run import curve
from attar.runs import checkpoint, run_folder
from attar.runs.run_folder import RunFolder
from attar.sets import set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import layers, recipes
from attar.settings.condense_config import CondenseConfig
from attar.settings.config import FLAGS, NetworkConfig, PoolConfig
from attar.settings.schema import settings_of
from attar.training import early_stage, pool_files
from benchmarks import fuzz_data
from benchmarks.fuzz_data import FuzzTarget

NETWORK = NetworkConfig(depth=1, width=0.05)


@cache
def tiny() -> ImageData:
    """Two classes of noise."""
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (8, 1, 8, 8), np.uint8))
    return ImageData(images, [0, 1] * 4, images, [0, 1] * 4, name="tiny")


def condensed(root: Path) -> FuzzTarget:
    """A condensed set, alone or with what is beside it."""
    images = torch.rand(4, 1, 8, 8)
    recipe = settings_of(recipes.named("digits"))
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
        loaded = set_files.load_set(root)
        decoded, labels = loaded.decoded()
        assert loaded.normalize(decoded).isfinite().all() and len(labels) == len(decoded)
        assert loaded.initial is None or loaded.initial.shape == loaded.images.shape
        recipes.overlay(recipes.named("digits"), loaded.recipe)

    return seeds, read


def member(root: Path) -> FuzzTarget:
    """A member of a pool, in its folder."""
    early_stage.pretrain(tiny(), PoolConfig(epochs=1, models=1), NETWORK, folder=root)
    (path,) = root.iterdir()

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        pool = pool_files.load([root], tiny(), NETWORK)
        net, (one,) = pool.build(0), pool.members
        assert torch.func.functional_call(net, one.params, (torch.zeros(1, 1, 8, 8),)).isfinite().all()

    return [path.read_bytes()], read


def checkpoints(root: Path) -> FuzzTarget:
    """A file of a checkpoint: noticed by its checksum, or, where the checksums were made to fit, refused or sound."""
    data = tiny()
    pool = early_stage.pretrain(data, PoolConfig(epochs=1, models=1), NETWORK)
    config = CondenseConfig(ipc=1, factor=1, init="random", niter=2, inner_loop=1, n_data=8, batch_real=4)
    setup = set_up(data, pool, config)
    state = init(setup)
    next(condensation.iterate(state, setup))
    checkpoint.write(root, snapshot(state, setup))
    files = {path: path.read_bytes() for path in sorted((root / checkpoint.CURRENT).iterdir())}
    turns = [0]

    def read(raw: bytes) -> None:
        turns[0] += 1
        changed = list(files)[turns[0] % len(files)]
        for path, good in files.items():
            path.write_bytes(raw if path == changed else good)
        fitting = turns[0] % 2 and changed.name != checkpoint.CHECKSUM_FILE
        if fitting:
            names = (checkpoint.TENSOR_FILE, checkpoint.STATE_FILE)
            sums = {name: sha256((root / checkpoint.CURRENT / name).read_bytes()).hexdigest() for name in names}
            text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
            (root / checkpoint.CURRENT / checkpoint.CHECKSUM_FILE).write_text(text, encoding="utf-8")
        values = checkpoint.load(root)
        assert fitting or raw == files[changed], "a damaged checkpoint passed"
        assert values is not None
        setup = set_up(data, pool, config)
        state = restore(values, setup)
        for _ in condensation.iterate(state, setup):
            pass
        condensed = condensation.product(state, setup)
        assert condensed.images.isfinite().all() and condensed.images.shape == (2, 1, 8, 8)

    return list(files.values()), read


def recipe_files(root: Path, name: str, seeds: list[bytes]) -> FuzzTarget:
    """A recipe by a file's name."""

    def read(raw: bytes) -> None:
        (root / name).write_bytes(raw)
        recipe = layers.resolve(FLAGS["condense"], {}, recipe=str(root / name))
        assert recipes.overlay(recipe, settings_of(recipe)) == recipe
        if recipe.data.dataset not in ("digits", "fashion"):
            load(recipe.data.dataset, data_dir=recipe.data.data_dir, nclass=recipe.data.nclass, size=recipe.data.size)

    return seeds, read


def config_json(root: Path) -> FuzzTarget:
    """config.json, as a recipe and as what a run folder says of itself."""
    folder = RunFolder(root)
    folder.write(run_folder.CONFIG, settings_of(recipes.named("digits")) | {"attar": {"command": "attar demo"}})
    seeds, as_recipe = recipe_files(root, run_folder.CONFIG, [(root / run_folder.CONFIG).read_bytes()])

    def read(raw: bytes) -> None:
        (root / run_folder.CONFIG).write_bytes(raw)
        folder.read(run_folder.CONFIG, "attar")
        as_recipe(raw)

    return seeds, read


def toml(root: Path) -> FuzzTarget:
    """A recipe file of the user's own."""
    short = b"recipe = 'digits'\nipc = 2\nlr_img = 1e-3\n[network]\nwidth = 0.5\n[evaluate]\nnetworks = ['convnet']\n"
    deep = [b"a = " + b"[" * 5000, b"a = " + b"{b=" * 5000, b"[" + b"a." * 3000 + b"a]\n"]
    return recipe_files(root, "my.toml", [layers.to_toml("digits").encode(), short, *deep])


def metrics(root: Path) -> FuzzTarget:
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


# name → makes the seeds and the reader in an empty folder; a new kind of file needs one line here
TARGETS: dict[str, Callable[[Path], FuzzTarget]] = {
    "condensed": condensed,
    "member": member,
    "checkpoint": checkpoints,
    "config": config_json,
    "toml": toml,
    "metrics": metrics,
    "idx": fuzz_data.idx_files,
    "cifar": fuzz_data.cifar_files,
    "svhn": fuzz_data.svhn_files,
    "images": fuzz_data.images,
    "cache": fuzz_data.cached,
}
