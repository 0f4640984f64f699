"""Encoded images in their order, wherever they come from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from attar.data.decode import Named


@dataclass(frozen=True)
class Pictures:
    """Encoded images in their order.

    items: from a row on, what each is called and where it comes from; stamp: what tells some rows from others without
    reading them, None where that cannot be; size_bytes: of the files together; jumps: whether one is had without those
    before it.
    """

    count: int
    items: Callable[[int], Iterator[Named]]
    stamp: Callable[[range], str] | None = None
    size_bytes: int = 0
    jumps: bool = False

    def select(self, rows: np.ndarray) -> Pictures:
        """These rows (int64 [n], ascending) only."""
        if len(rows) == self.count:
            return self
        stamp = self.stamp

        def items(start: int) -> Iterator[Named]:
            if self.jumps:
                yield from (next(self.items(row)) for row in rows[start:].tolist())
                return
            left = deque(rows[start:].tolist())
            for row, item in enumerate(self.items(left[0]), left[0]) if left else ():
                if row == left[0]:
                    left.popleft()
                    yield item
                if not left:
                    return

        def stamps(part: range) -> str:
            assert stamp is not None
            return "\n".join(stamp(range(row, row + 1)) for row in rows[part.start : part.stop].tolist())

        size = round(self.size_bytes * len(rows) / max(1, self.count))
        return Pictures(len(rows), items, None if stamp is None else stamps, size, self.jumps)


def join(parts: Sequence[Pictures]) -> Pictures:
    """The images of several sources, one after another."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(part.count for part in parts)]).tolist()

    def items(start: int) -> Iterator[Named]:
        pieces = [
            part.items(max(0, start - first))
            for part, first in zip(parts, starts, strict=False)
            if start < first + part.count
        ]
        return chain.from_iterable(pieces)

    def stamp(rows: range) -> str:
        return "\n".join(
            part.stamp(range(max(rows.start - first, 0), min(rows.stop - first, part.count)))
            for part, first in zip(parts, starts, strict=False)
            if part.stamp is not None and rows.start < first + part.count and rows.stop > first
        )

    stamped = all(part.stamp is not None for part in parts)
    size, jumps = sum(part.size_bytes for part in parts), all(part.jumps for part in parts)
    return Pictures(starts[-1], items, stamp if stamped else None, size, jumps)
