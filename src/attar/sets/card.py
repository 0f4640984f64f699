"""The card of an exported set: README.md of a folder, as on the Hugging Face hub, or FILE.md; what strangers see."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from attar import __version__, files
from attar.errors import counted
from attar.sets import card_code, sources
from attar.sets.decode import decoded_count, usual_epochs
from attar.sets.soft_files import FILE, SOFT
from attar.sets.sources import Source
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import EvaluateConfig, Recipe, with_role
from attar.settings.methods import METHODS
from attar.settings.schema import replace, settings_of

CARD = "README.md"
PICTURE = "images.png"  # of the run, beside the card
Exported = Mapping[str, tuple[Tensor, Tensor]]  # "stored", "decoded" → images and labels
NUMBERS = ("lr", "momentum", "weight_decay", "batch_size", "epochs", "mix_p")  # of the evaluation, in the code
SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_card(out: Path, exported: Exported, condensed: SyntheticSet, to: str, files_of: Path, name: str = "") -> None:
    """Write the card of a format into a folder, or to a file, with the accuracies of the set's run, if it is in one.

    out: the card. files_of: the exported file, which will be called `name`; or the folder, which gets a picture.
    """
    run, folder = condensed.folder, files_of if files_of.is_dir() else None
    has_picture = run is not None and folder is not None and (run / PICTURE).is_file()
    if run is not None and folder is not None and has_picture:
        shutil.copy(run / PICTURE, folder / PICTURE)
    result = files.read_json(run / "result.json") if run is not None and (run / "result.json").is_file() else {}
    paths = [files_of] if folder is None else sorted(folder.glob("*/*.parquet"))
    sums = {
        name or path.relative_to(files_of).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }
    text = card(exported, condensed, result, sums, to=to, file=name, picture=has_picture)
    out.write_text(text, encoding="utf-8")


def card(
    exported: Exported,
    condensed: SyntheticSet,
    result: Mapping[str, Any],
    sums: Mapping[str, str],
    *,
    to: str,
    file: str,
    picture: bool,
) -> str:
    """The text of the card.

    Args:
        exported: "stored", "decoded" or both → images and labels.
        condensed: the set.
        result: the content of the run's result.json; empty where there is none.
        sums: file → SHA-256.
        to: the format.
        file: the name of the exported file; "" of a folder.
        picture: whether there is one beside the card.
    """
    shape = "x".join(map(str, condensed.images.shape[1:]))
    grid, is_grid = f"{condensed.factor} x {condensed.factor}", condensed.factor > 1
    kinds = {
        "stored": "`stored`: the images as stored" + f", each a grid of up to {grid} images" * is_grid,
        "decoded": "`decoded`: the images to train on" + ", cut out of the grids and enlarged" * is_grid,
    }
    origin, source = "real" if condensed.coreset else "synthetic", condensed.source or "images"
    known = sources.source_of(str(card_code.section(condensed, "data").get("dataset") or f"./{source}"))
    lines = [
        *([] if file else _yaml(exported, known, to)),
        f"# {source}, condensed",
        "",
        *([f"![the images]({PICTURE})", ""] if picture else []),
        f"{counted(len(condensed.labels), f'{origin} image')} of {shape}, {condensed.ipc} for "
        f"each of {counted(condensed.nclass, 'class')},",
        f"made by attar out of the data set `{source}`, by the method {condensed.method} (decode type "
        f"{condensed.decode_type}, factor {condensed.factor}).",
        "",
        *(f"- {kinds[what]}: {counted(len(labels), 'image')}" for what, (_, labels) in exported.items()),
        *_soft_labels(condensed.teacher, to),
        *_learned(condensed, to),
        "",
        *_accuracies(result),
        *_training(condensed, result, to, list(exported), file),
        *_settings(condensed),
        "## Licence",
        "",
        f"The images are made from `{source}`{f' ({known.home})' if known.home else ''}: its licence and terms "
        f"{f'({known.link}) ' if known.link else ''}hold for them too.",
        "A condensed set is no guarantee of privacy: what its images show may stem from single real images.",
        "",
        *_citation(condensed),
        *(["## Checksums (SHA-256)", "", "```", *(f"{sums[name]}  {name}" for name in sums), "```"] if sums else []),
    ]
    return "\n".join(lines) + "\n"


def _yaml(exported: Exported, known: Source, to: str) -> list[str]:
    """The fields of the Hugging Face hub, which then shows and loads the folder."""
    count = max(len(labels) for _, labels in exported.values())
    size = next((name for limit, name in SIZE_CATEGORIES if count < limit), "n>1M")
    names = {what: "train" if to == "imagefolder" and len(exported) == 1 else what for what in exported}
    place = "data_files: {}/train-*.parquet" if to == "parquet" else "data_dir: {}"
    configs = [f"- config_name: {what}\n  {place.format(names[what])}" for what in exported]
    return [
        "---",
        *([f"license: {known.licence}"] if known.licence else ["license: other", "license_name: that-of-the-source"]),
        *([f"license_link: {known.link}"] if known.link else []),
        "task_categories:\n- image-classification",
        "tags:\n- dataset-distillation\n- attar",
        f"size_categories:\n- {size}",
        f"source_datasets:\n- {known.hub or 'extended'}",
        "configs:",
        *configs[:-1],
        f"{configs[-1]}\n  default: true",
        "---",
        "",
    ]


def _soft_labels(teacher: Mapping[str, Any], to: str) -> list[str]:
    """A line about the soft labels, where the set has a teacher and the format holds them."""
    if not teacher or to == "pt":
        return []
    where = {"parquet": f"the column `{SOFT}`", "npz": f"the array `{SOFT}`", "imagefolder": f"`{FILE}`"}[to]
    pool, epochs = teacher["pool"], counted(teacher["pool"]["epochs"], "epoch")
    who = f"{pool['models']} {teacher['network']['net_type']} of {epochs}"
    return [
        f"- {where} of the images to train on: the class probabilities of {who} on the real images, "
        f"temperature {teacher['temperature']:g}"
    ]


def _learned(condensed: SyntheticSet, to: str) -> list[str]:
    """Lines about what was learned beside the images, and about the space of their pixels."""
    lines = []
    if condensed.lr is not None:
        lines.append(f"- *as learned*: the learning rate {condensed.lr:.3g} was learned with the images")
    if condensed.learned_labels is not None:
        lines.append("- soft labels of the images to train on, class probabilities, were learned with them too")
    if condensed.soft_labels is not None and to == "pt":
        lines.append("- soft labels are in the file too: `attar.train` takes them, the code without attar does not")
    if condensed.space == "zca":
        lines.append("- networks see them in ZCA space, whitened by the real images; here they are as they look")
    if condensed.space != "unit":
        lines.append("- images that were not kept in [0, 1]" + "; what was outside is clipped here" * (to != "pt"))
    return lines


def _accuracies(result: Mapping[str, Any]) -> list[str]:
    """A table of the accuracies of fresh networks, and how they were trained; nothing where none were measured."""
    kinds = {"accuracy": "this set", "learned": "as learned", "initial": "before optimising"}
    kinds |= {"random_real": "random real", "whole": "whole set"}
    kinds = {kind: words for kind, words in kinds.items() if result.get(kind)}
    heading = ["## Accuracy of networks trained on it", ""]
    if "accuracy" not in kinds:
        return [*heading, "Not measured: `attar evaluate` does it.", ""]
    rows = [f"| network | {' | '.join(kinds.values())} |", "|---" * (len(kinds) + 1) + "|"]
    for network in result["accuracy"]:
        cells = [_percent(result[kind].get(network)) for kind in kinds]
        rows.append(f"| {network} | {' | '.join(cells)} |")
    tested_on = result.get("tested_on", "test images")
    count = next(iter(result["accuracy"].values()))["n"]
    below = f"Accuracy on the {tested_on}, %, mean ± standard deviation over n = {count}."
    entries = {words: next(iter(result[kind].values())) for kind, words in kinds.items()}
    lengths = [
        f"{words} {counted(entry['epochs'], 'epoch')} of {counted(entry['images'], 'image')}"
        for words, entry in entries.items()
        if {"epochs", "images"} <= entry.keys()
    ]
    below += f" Trained on: {', '.join(lengths)}; the rest of the protocol is below." if lengths else ""
    return [*heading, *rows, "", below, ""]


def _training(
    condensed: SyntheticSet, result: Mapping[str, Any], to: str, exported: Sequence[str], file: str
) -> list[str]:
    """How to train on the set, with code: as it was evaluated, or will be by its settings."""
    given = card_code.section(condensed, "evaluate") | result.get("protocol", {})
    given |= {"lr": condensed.lr} if condensed.lr is not None and not condensed.teacher else {}  # as `attar train`
    measured: Mapping[str, Any] = next(iter(result.get("accuracy", {}).values()), {})
    given |= {"epochs": measured["epochs"]} if "epochs" in measured else {}
    config = replace(EvaluateConfig(), {name: given[name] for name in NUMBERS if name in given}, "[evaluate] ")
    how = settings_of(config) | {"aug_type": str(given.get("aug_type", config.aug_type))}
    decoded = decoded_count(condensed.ipc, condensed.factor, condensed.decode_type)
    size, what = (condensed.images.shape[2], condensed.images.shape[3]), exported[-1]
    epochs = config.epochs or usual_epochs(decoded, size, condensed.nclass)
    own = card_code.own_operations(how["aug_type"])
    lines = [
        "## Train on it",
        "",
        f"SGD (learning rate {how['lr']:g}, momentum {how['momentum']}, weight decay {how['weight_decay']}), batches "
        f"of {how['batch_size']}, {counted(epochs, 'epoch')}, a fifth of the",
        f"rate after 2/3 and again after 5/6 of them; augmentation {how['aug_type']}; CutMix in a batch with "
        f"probability {how['mix_p']}.",
        *([f"The code leaves out {' and '.join(own)}, which attar does not have."] if own else []),
    ]
    if condensed.space == "zca":
        lines.append("Networks see these images whitened (ZCA) by the real ones: `attar.train` needs those.")
    if what == "stored" and condensed.decode_type == "bound":
        return [
            *lines,
            f"Each image has a factor of its own: `attar export --to {to} --what decoded` cuts them up.",
            "",
        ]
    lines += ["", "By attar (`pip install attar`):", "", "```python", card_code.by_attar(file), "```"]
    if condensed.space == "zca":
        return [*lines, ""]
    code = card_code.alone(condensed, how, epochs, to=to, what=what, several=len(exported) > 1, file=file)
    return [*lines, "", "Without attar:", "", "```python", code, "```", ""]


def _settings(condensed: SyntheticSet) -> list[str]:
    """The settings that differ from attar's defaults, those of this machine left out."""
    default = settings_of(Recipe())
    lines = [
        f"{section}.{name} = {json.dumps(value)}"
        for section in ("network", "pool", "condense")
        for name, value in card_code.section(condensed, section).items()
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
