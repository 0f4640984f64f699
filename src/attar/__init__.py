"""attar: a data set in, a handful of synthetic images per class out.

The names are loaded when they are used, so that `attar --help` need not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attar.comparison.run import compare as compare
    from attar.data.images import ImageData as ImageData
    from attar.data.load import load as load
    from attar.errors import MissingError as MissingError
    from attar.errors import UserError as UserError
    from attar.evaluation.results import Evaluation as Evaluation
    from attar.sets.export import export_set as export_set
    from attar.sets.partition import concatenate as concatenate
    from attar.sets.push import push_set as push_set
    from attar.sets.set_files import load_set as load_set
    from attar.sets.set_files import save_set as save_set
    from attar.sets.synthetic import SyntheticSet as SyntheticSet
    from attar.settings.methods import methods as methods
    from attar.settings.plugins import augmentations as augmentations
    from attar.settings.plugins import losses as losses
    from attar.stages.add import add as add
    from attar.stages.condense import condense as condense
    from attar.stages.evaluate import evaluate as evaluate
    from attar.stages.label import label as label
    from attar.stages.pretrain import pretrain as pretrain
    from attar.stages.run import Event as Event
    from attar.stages.select import select as select
    from attar.stages.train import train as train
    from attar.training.pool import Pool as Pool

# The one place that says it; the metadata of a distribution are made from here, so attar runs from its sources too.
__version__ = "0.1.0"

# In the order in which a user needs them
_ROOMS = {
    "load": "data.load",
    "condense": "stages.condense",
    "select": "stages.select",
    "evaluate": "stages.evaluate",
    "train": "stages.train",
    "label": "stages.label",
    "load_set": "sets.set_files",
    "save_set": "sets.set_files",
    "export_set": "sets.export",
    "push_set": "sets.push",
    "pretrain": "stages.pretrain",
    "add": "stages.add",
    "concatenate": "sets.partition",
    "compare": "comparison.run",
    "SyntheticSet": "sets.synthetic",
    "ImageData": "data.images",
    "Evaluation": "evaluation.results",
    "Event": "stages.run",
    "Pool": "training.pool",
    "methods": "settings.methods",
    "losses": "settings.plugins",
    "augmentations": "settings.plugins",
    "UserError": "errors",
    "MissingError": "errors",
}

__all__ = [*_ROOMS]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'attar' has no attribute '{name}'")
    return getattr(importlib.import_module(f"attar.{_ROOMS[name]}"), name)
