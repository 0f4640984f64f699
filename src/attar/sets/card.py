"""The card of an exported set: README.md of a data set on the Hugging Face hub, the page that strangers see."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from attar import __version__, files
from attar.errors import counted
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import EvaluateConfig, Recipe, with_role
from attar.settings.methods import METHODS
from attar.settings.schema import settings_of

CARD = "README.md"
PICTURE = "images.png"  # of the run, beside the card
NAME = "USER/NAME"  # in the snippet; `attar push` knows the name
SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
SOURCES = {  # where known data sets come from
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "digits": "https://archive.ics.uci.edu/dataset/80",
    "fashion": "https://github.com/zalandoresearch/fashion-mnist",
    "imagenet": "https://image-net.org",
    "mnist": "https://yann.lecun.org/exdb/mnist",
    "svhn": "http://ufldl.stanford.edu/housenumbers",
}


def write_card(folder: Path, exported: Mapping[str, tuple[Tensor, Tensor]], condensed: SyntheticSet) -> None:
    """Write the card into a folder whose images are there, with picture and accuracies of the set's run, if any."""
    run = condensed.folder
    has_picture = run is not None and (run / PICTURE).is_file()
    if run is not None and has_picture:
        shutil.copy(run / PICTURE, folder / PICTURE)
    result = files.read_json(run / "result.json") if run is not None and (run / "result.json").is_file() else {}
    sums = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/*.parquet"))
    }
    (folder / CARD).write_text(card(exported, condensed, result, sums, picture=has_picture), encoding="utf-8")


def card(
    exported: Mapping[str, tuple[Tensor, Tensor]],
    condensed: SyntheticSet,
    result: Mapping[str, Any],
    sums: Mapping[str, str],
    *,
    picture: bool,
) -> str:
    """The text of the card; `result` is the content of the run's result.json, `sums` the SHA-256 of each file."""
    count = max(len(labels) for _, labels in exported.values())
    size = next((name for limit, name in SIZE_CATEGORIES if count < limit), "n>1M")
    configs = [
        f"- config_name: {what}\n  data_files: {what}/train-*.parquet"
        + ("\n  default: true" * (number == len(exported) - 1))
        for number, what in enumerate(exported)
    ]
    shape = "x".join(map(str, condensed.images.shape[1:]))
    grid = f"{condensed.factor} x {condensed.factor}"
    kinds = {
        "stored": f"`stored`: the images as stored, each a grid of up to {grid} images",
        "decoded": "`decoded`: the images to train on, cut out of the grids and enlarged",
    }
    origin, source = "real" if condensed.coreset else "synthetic", condensed.source or "images"
    link = SOURCES.get(source, f"https://huggingface.co/datasets/{source}" if source.count("/") == 1 else "")
    lines = [
        "---",
        "license: other",
        "license_name: that-of-the-source",
        "task_categories:\n- image-classification",
        "tags:\n- dataset-distillation\n- attar",
        f"size_categories:\n- {size}",
        "configs:",
        *configs,
        "---",
        "",
        f"# {source}, condensed",
        "",
        *([f"![the images]({PICTURE})", ""] if picture else []),
        f"{counted(len(condensed.labels), f'{origin} image')} of {shape}, {condensed.ipc} for "
        f"each of {counted(condensed.nclass, 'class')},",
        f"made by attar out of the data set `{source}`, by the method {condensed.method} (decode type "
        f"{condensed.decode_type}, factor {condensed.factor}).",
        "",
        *(f"- {kinds[what]}: {counted(len(labels), 'image')}" for what, (_, labels) in exported.items()),
        *_soft_labels(condensed.teacher),
        "",
        *_snippet(condensed, list(exported)[-1]),
        "",
        *_training(condensed, result),
        "",
        *_accuracies(result),
        *_settings(condensed.recipe),
        "## Licence",
        "",
        f"The images are made from `{source}`{f' ({link})' if link else ''}: its licence and terms hold for them too.",
        "A condensed set is no guarantee of privacy: what its images show may stem from single real images.",
        "",
        *_citation(condensed),
        "## Checksums (SHA-256)",
        "",
        *("```", *(f"{digest}  {name}" for name, digest in sums.items()), "```"),
    ]
    return "\n".join(lines) + "\n"


def _soft_labels(teacher: Mapping[str, Any]) -> list[str]:
    """A line about the column of soft labels, where the set has a teacher."""
    if not teacher:
        return []
    pool, epochs = teacher["pool"], counted(teacher["pool"]["epochs"], "epoch")
    who = f"{pool['models']} {teacher['network']['net_type']} of {epochs}"
    return [
        f"- the column `soft_labels` of the images to train on: the class probabilities of {who} on the real images, "
        f"temperature {teacher['temperature']:g}"
    ]


def _accuracies(result: Mapping[str, Any]) -> list[str]:
    """A table of the accuracies of fresh networks, and how they were trained; nothing where none were measured."""
    kinds = {"accuracy": "this set", "initial": "before optimising", "random_real": "random real", "whole": "whole set"}
    kinds = {kind: words for kind, words in kinds.items() if result.get(kind)}
    if "accuracy" not in kinds:
        return []
    rows = [f"| network | {' | '.join(kinds.values())} |", "|---" * (len(kinds) + 1) + "|"]
    for network in result["accuracy"]:
        cells = [_percent(result[kind].get(network)) for kind in kinds]
        rows.append(f"| {network} | {' | '.join(cells)} |")
    tested_on = result.get("tested_on", "test images")
    count = next(iter(result["accuracy"].values()))["n"]
    below = f"Accuracy on the {tested_on}, %, mean ± standard deviation over n = {count}."
    return ["## Accuracy of networks trained on it", "", *rows, "", below, ""]


def _training(condensed: SyntheticSet, result: Mapping[str, Any]) -> list[str]:
    """How to train on the set: as it was evaluated, or will be by its settings."""
    how = settings_of(EvaluateConfig()) | condensed.recipe.get("evaluate", {}) | result.get("protocol", {})
    measured: Mapping[str, Any] = next(iter(result.get("accuracy", {}).values()), {})
    epochs = measured.get("epochs") or how["epochs"] or 1000
    return [
        f"To train on the decoded images: SGD (learning rate {how['lr']}, momentum {how['momentum']}, weight decay "
        f"{how['weight_decay']}), batches of {how['batch_size']},",
        f"{counted(epochs, 'epoch')}, a fifth of the rate after 2/3 and again after 5/6 of them; augmentation "
        f"{how['aug_type']};",
        f"CutMix in a batch with probability {how['mix_p']}.",
        "`attar train RUN --network resnet18` does all that with the run that made it.",
    ]


def _snippet(condensed: SyntheticSet, config: str) -> list[str]:
    """Python that makes tensors to train on of the images."""
    to_channels = "unsqueeze(1)" if len(condensed.mean) == 1 else "permute(0, 3, 1, 2)"
    return [
        "```python",
        "import numpy as np",
        "import torch",
        "from datasets import load_dataset",
        "",
        f'images = load_dataset("{NAME}", "{config}")["train"]',
        f"mean, std = (torch.tensor(v).view(-1, 1, 1) for v in ([{_numbers(condensed.mean)}], "
        f"[{_numbers(condensed.std)}]))",
        'x = torch.stack([torch.from_numpy(np.array(image)) for image in images["image"]])',
        f"x = (x.{to_channels} / 255 - mean) / std",
        'y = torch.tensor(images["label"])',
        "```",
    ]


def _settings(recipe: Mapping[str, Any]) -> list[str]:
    """The settings that differ from attar's defaults, those of this machine left out."""
    default = settings_of(Recipe())
    lines = [
        f"{section}.{name} = {json.dumps(value)}"
        for section in ("network", "pool", "condense")
        for name, value in recipe.get(section, {}).items()
        if value != default[section].get(name, value) and name not in with_role(section, "place", "speed")
    ]
    return ["## Settings", "", "What differs from attar's defaults:", "", "```", *lines, "```", ""] if lines else []


def _citation(condensed: SyntheticSet) -> list[str]:
    """BibTeX of the paper of the method, where there is one, and of attar."""
    method = METHODS.get(condensed.method)
    of_attar = f"The attar authors, attar: a toolkit for dataset distillation, version {__version__}, 2026"
    papers = {} if method is None or condensed.coreset else {condensed.method.replace("-", ""): method.paper}
    return [
        "## Citation",
        "",
        "```bibtex",
        *(bibtex(key, words) for key, words in (papers | {"attar": of_attar}).items()),
        "```",
        "",
    ]


def bibtex(key: str, words: str) -> str:
    """An entry of BibTeX of "AUTHORS, TITLE, VENUE YEAR", or a note where the words have another form."""
    parts = re.fullmatch(r"(.+?), (.+), (.+?),? (\d{4})", words)
    if parts is None:
        return f"@misc{{{key}, note = {{{words}}}}}"
    authors, title, venue, year = parts.groups()
    authors = "{The attar authors}" if authors.startswith("The ") else authors.replace(" et al.", " and others")
    return (
        f"@{'misc' if key == 'attar' else 'inproceedings'}{{{key},\n  author = {{{authors}}},\n  title = {{{title}}},\n"
        f"  {'note' if key == 'attar' else 'booktitle'} = {{{venue}}},\n  year = {{{year}}}\n}}"
    )


def _percent(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    return f"{100 * entry['mean']:.1f}" + ("" if entry["std"] is None else f" ± {100 * entry['std']:.1f}")


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
