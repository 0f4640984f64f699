"""Files of a tree as images to be decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from attar.data.decode import Named, Source
from attar.data.pictures import Pictures
from attar.data.reading import printable
from attar.data.sources.tree import Tree

Opener = Callable[[str], Source]  # the name of a file in a tree → what it is decoded from


def opener(root: Path) -> Opener:
    """Files of a folder on disk."""
    return lambda name: Path(os.path.join(root, name))


def pictures_of(tree: Tree, places: Sequence[int], open_file: Opener) -> Pictures:
    """The images at these places of a tree."""

    def items(start: int) -> Iterator[Named]:
        for place in islice(places, start, None):
            name = tree.files[place]
            yield printable(os.path.join(tree.root, name)), open_file(name)

    def stamp(rows: range) -> str:
        return "\n".join(tree.stamps[place] for place in places[rows.start : rows.stop])

    return Pictures(len(places), items, stamp, sum(tree.sizes[place] for place in places))
