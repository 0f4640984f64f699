"""Tiny ImageNet as it is unzipped: train/<wnid>/images/*, and val/images/* with the labels in val_annotations.txt."""

from __future__ import annotations

from pathlib import Path

from attar.data.reading import LeftOut
from attar.data.sources.layout import NOT_PICTURES, Layout
from attar.data.sources.tree import Tree, is_picture
from attar.errors import UserError

LABELS = "val/val_annotations.txt"  # a line for each image: file, wnid, and a box, with tabs between them


def is_here(tree: Tree) -> bool:
    """Whether the tree is that of Tiny ImageNet."""
    return LABELS in tree.loose.get("val", []) and "train" in tree.with_pictures


def layout_of(tree: Tree, root: Path, left_out: LeftOut) -> Layout:
    """Its training and validation images; those of test/ have no labels. Raises UserError for a damaged table."""
    lines = (root / LABELS).read_text(encoding="utf-8").splitlines()
    label_of = dict(line.split("\t")[:2] for line in lines if line.count("\t"))
    classes = [name for name in tree.inner.get("train", []) if f"train/{name}" in tree.with_pictures]
    pictures: Layout = {split: {name: [] for name in classes} for split in ("train", "val")}
    for place, file in enumerate(tree.files):
        split, _, rest = file.partition("/")
        label = rest.split("/")[0] if split == "train" else label_of.get(rest.rpartition("/")[2], "")
        if split not in pictures or not is_picture(file):
            left_out.add("images of test/, which have no labels" if is_picture(file) else f"files {NOT_PICTURES}", file)
        elif label in pictures[split]:
            pictures[split][label].append(place)
        else:
            raise UserError(f"{root / LABELS} gives {file} the class '{label}', which train/ has not")
    return pictures
