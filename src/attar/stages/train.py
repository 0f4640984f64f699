"""Training one network on a condensed set, to keep: by the protocol of the evaluation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from attar import __version__, files
from attar.data.images import ImageData
from attar.engine import device as devices
from attar.errors import Diverged, UserError, log
from attar.evaluation.measure import TrainingJob, train_network
from attar.evaluation.protocol import (
    CONDENSED,
    LEARNED,
    SOFT,
    check_set_fits,
    chosen_networks,
    config_of,
    epochs_for,
    protocol_of,
)
from attar.evaluation.training_sets import training_set
from attar.models import OwnNetwork
from attar.models.for_data import scale_of
from attar.runs import run_folder
from attar.runs.progress import Progress, shows_progress
from attar.sets import foreign, set_files
from attar.sets.synthetic import SyntheticSet
from attar.settings import layers, recipes
from attar.settings.config import Recipe, with_role
from attar.settings.layers import Layer
from attar.settings.schema import settings_of
from attar.settings.typed import TrainSettings
from attar.stages.shared import given_images, load_data, name_as_setting, recipe_of_set, with_asked
from attar.training.train_state import TrainState, accuracy

MODEL = "model.safetensors"


def train(
    condensed: SyntheticSet | str | Path,
    network: Any = None,
    data: Any = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **settings: Unpack[TrainSettings],
) -> nn.Module:
    """Train a network on a condensed set by the protocol of the evaluation.

    Args:
        condensed: a set, a run folder, a condensed file, or an export of attar.
        network: a name such as "resnet18", a function or class `(channels, classes, (height, width))` that makes a
            network, `"module:function"`, or a network, of which a copy is trained from the weights it has. By default
            the network of the run that made the set.
        data: the real images whose test images it is tested on, at the set's mean and std: an `ImageData`, or what
            `attar.load` takes. By default those that the set was made from, if they are there; else it is not tested.
        out: a safetensors file for the weights; `overwrite` replaces one.
        progress: True shows a bar, and the accuracy; nothing is shown by default.
        settings: fields of `EvaluateConfig` such as epochs=300 and seed=1, width and norm_type, fields of `DataConfig`.

    Returns:
        The network in evaluation mode, on the device of the data. It takes normalised images: `condensed.normalize`.

    Raises:
        UserError: where set, network and data do not fit each other; `Diverged` where weights become infinite.

    Example:
        network = attar.train("runs/mine", "convnet2", out="mine.safetensors")
        logits = network(small.normalize(small.decoded()[0]))
    """
    return train_set(condensed, network, data, out=out, overwrite=overwrite, progress=progress, **settings)[0]


@shows_progress
def train_set(
    condensed: SyntheticSet | str | Path,
    network: Any = None,
    data: Any = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> tuple[nn.Module, dict[str, Any]]:
    """As `train`; returns the network, and the metadata of its file: what it is and how it was trained."""
    assert isinstance(progress, Progress)  # see `shows_progress`
    path = None if out is None else Path(out)
    if path is not None:
        run_folder.check_no_run_file(path)
    if path is not None and not isinstance(condensed, SyntheticSet) and path.resolve() == Path(condensed).resolve():
        raise UserError(f"{path} is the set that is trained on; name another file with --out")
    if path is not None and (path.is_dir() or (path.exists() and not overwrite)):
        what = "is a folder" if path.is_dir() else "exists"
        raise UserError(
            f"{path} {what}; name another file with --out" + ("" if path.is_dir() else ", or add --overwrite")
        )
    data, settings, flags = name_as_setting("train", data, settings)
    layer = layers.by_section(flags, settings)
    where = condensed
    if not isinstance(condensed, SyntheticSet):
        is_export = foreign.is_foreign(Path(condensed))
        condensed = foreign.alone(Path(condensed)) if is_export else set_files.load_set(condensed)
    asked = () if network is None else [_maker(network) if isinstance(network, nn.Module) else network]
    of_network = layers.by_section({}, {"evaluate": {"networks": asked}})
    recipe = recipes.overlay(with_asked(recipe_of_set(condensed, where), layer, condensed.recipe), of_network)
    images = _real_images(condensed, recipe, layer, data, progress)
    check_set_fits(condensed, images, tested=images.test_images is not None)
    scale, own = (condensed.mean, condensed.std), (images.mean, images.std)
    if condensed.space != "zca" and own != scale:
        if scale_of(*own) != scale_of(*scale):  # beyond rounding
            log.info("images are normalised by the set's mean and std, not by those of %s", images.name)
        images = images.at_scale(*scale)  # as the caller, who has the set, will normalise
    ((label, chosen),) = chosen_networks(recipe.evaluate, recipe.network).items()
    epochs = epochs_for(condensed, images, recipe.evaluate)
    kind = SOFT if condensed.teacher else LEARNED if condensed.has_learned else CONDENSED
    config = recipe.evaluate if "lr" in layer.get("evaluate", {}) else config_of(kind, recipe.evaluate, condensed)
    _say_how(kind, condensed, config.lr, recipe.evaluate.lr)
    job = TrainingJob(label, chosen, kind, config, epochs, config.seed)
    pixels, labels = training_set(kind, condensed, images, job.seed)
    if path is not None:
        files.make_folder(path.parent)  # now, and not when the network is trained
    with progress.stage("train", epochs, images=len(labels)) as bar:
        model = train_network(job, pixels, labels, images, lambda epoch: bar.advance(f"epoch {epoch + 1} of {epochs}"))
    if not all(bool(value.isfinite().all()) for value in model.params.values()):
        raise Diverged(f"{label} diverged in training; lower the learning rate (lr is {config.lr:g})")
    right = None if images.test_images is None else accuracy(model, images.test_batches())
    about = {
        "network": settings_of(chosen) | {"label": label},
        "dataset": condensed.source,
        "classes": list(condensed.classes),
        "channels": images.channels,
        "size": list(images.size),
        "mean": list(images.mean),
        "std": list(images.std),
        "method": condensed.method,
        "images": len(labels),
        "epochs": epochs,
        "seed": job.seed,
        "protocol": protocol_of(config, chosen, images),
        "accuracy": right,
        "tested_on": None if right is None else images.tested_on,
        "attar": __version__,
    }
    trained = _with_weights(model)
    if path is not None:
        tensors = {name: value.clone() for name, value in trained.state_dict().items()}  # tied ones apart
        files.save_tensors(path, tensors, "network", about)
    return trained, about


def _say_how(kind: str, condensed: SyntheticSet, lr: float, protocol_lr: float) -> None:
    """Log with which labels and at which rate a network is trained, where a set has more than images and labels."""
    if kind == CONDENSED:
        return
    labels = "the labels learned with it" if condensed.learned_labels is not None else "its hard labels"
    learned = "" if condensed.lr is None else f", the learned one {condensed.lr:.3g}"
    log.info(
        "the set is trained on with %s at the learning rate %.3g (the protocol's is %g%s)",
        *("its teacher's labels" if kind == SOFT else labels, lr, protocol_lr, learned),
    )


def _maker(network: nn.Module) -> Callable[..., nn.Module]:
    """A function that makes copies of a network, with its name."""

    def make(channels: int, nclass: int, size: tuple[int, int]) -> nn.Module:
        return copy.deepcopy(network)

    make.__module__, make.__qualname__ = "__main__", f"<{type(network).__qualname__}>"
    return make


def _real_images(condensed: SyntheticSet, recipe: Recipe, layer: Layer, data: Any, progress: Progress) -> ImageData:
    """The real images, or those of the set itself, without test images, where the real ones are not there.

    Raises `UserError` where the caller named images that cannot be read, and for a set that only real images whiten.
    """
    if data is not None:
        return given_images(data, layer, progress)
    try:
        if condensed.recipe and not {"dataset"} & {*condensed.recipe.get("data", {}), *layer.get("data", {})}:
            raise UserError("the set does not say which data it stands for; name the real data with -d")
        return load_data(recipe, progress)
    except UserError as error:  # a set that came alone, or whose data set has another place
        if layer.get("data", {}).keys() & {*with_role("data", "source"), "data_dir", "cache_dir"}:
            raise
        if condensed.space == "zca":
            raise UserError(f"a set in ZCA space is whitened by the real images; name them with -d: {error}") from error
        log.warning("the network is not tested: %s", error)
    return ImageData(
        condensed.images.clamp(0, 1),  # for its shape: what is trained on is the set
        condensed.labels,
        classes=condensed.classes,
        mean=condensed.mean,
        std=condensed.std,
        name=condensed.source or "custom",
        device=devices.pick(recipe.data.device),
        channels="first",
    )


def _with_weights(model: TrainState) -> nn.Module:
    """The module with the weights that were trained; one that attar took apart is in one piece again."""
    module = model.module
    with torch.no_grad():
        for name, value in chain(module.named_parameters(), module.named_buffers()):
            value.copy_((model.params | model.buffers)[name])
    return (module.whole() if isinstance(module, OwnNetwork) else module).eval()
