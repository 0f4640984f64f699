"""All images of a source, decoded one after another into one array of bytes, in memory or in a file."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np

from attar.data.decode import FULL_RANGE, BadImage, Decoded, Named, Needs, bits_of, decode, short_side
from attar.data.pictures import Pictures
from attar.data.reading import Reading, Silent
from attar.engine.device import cores
from attar.errors import UserError, counted, log

SERIAL_PIXELS = 64 * 64  # below it an image is decoded in less time than two threads take to agree on it
GROUP = 8  # images that a thread decodes at once
AHEAD = 4  # groups a thread that are waiting to be taken
BATCH = 1024  # images whose headers are read at once
CHUNK = 4 << 20  # bytes of pixels that are written, and written again after a kill, as one piece
HIGHEST_OF_UPPER_BYTES = 63  # colour images with 16 bits: below it less than 14 of them are used


@dataclass
class Seen:
    """What was seen in images while they were decoded: rows that cannot be read, and what is to be told.

    bad: rows; clear: images with transparency; highest: value of grey images with 16 bits; deep_colour: highest upper
    byte of colour images with 16 bits a channel; mixed: words about images of several sizes; frames: images with
    more than one.
    """

    bad: list[int] = field(default_factory=list)
    clear: int = 0
    highest: int = 0
    deep_colour: int = 0
    mixed: str = ""
    frames: int = 0

    def add(self, other: Seen) -> None:
        """Take over what was seen in other images."""
        self.bad += other.bad
        self.clear += other.clear
        self.highest = max(self.highest, other.highest)
        self.deep_colour = max(self.deep_colour, other.deep_colour)
        self.mixed = self.mixed or other.mixed
        self.frames += other.frames

    def say(self, name: str, needs: Needs) -> None:
        """Log what was guessed or dropped."""
        if self.mixed:
            log.warning("%s: %s: all are brought to %dx%d (--size names another)", name, self.mixed, *[needs.size] * 2)
        if self.highest and needs.bits:
            line = "%s: the highest value of the 16-bit images is %d, so they are read as %d-bit: 0..%d becomes 0..255"
            level = log.info if needs.bits == FULL_RANGE else log.warning
            level(line, name, self.highest, needs.bits, 2**needs.bits - 1)
        if 0 < self.deep_colour <= HIGHEST_OF_UPPER_BYTES:
            log.warning(
                "%s: of colour images with 16 bits a channel the upper 8 are read, and the highest is %d of 255: where "
                "they hold fewer bits, as 12-bit images do, save them with 8 bits a channel",
                name,
                self.deep_colour,
            )
        if self.frames:
            count = counted(self.frames, "image")
            log.warning("%s: %s with several frames or pages; the first of each is read", name, count)
        if self.clear:
            log.warning(
                "%s: %s with transparent places; that is dropped, and what lies beneath shows",
                name,
                counted(self.clear, "image"),
            )


class Sink(Protocol):
    """Where decoded images go, in chunks of about `CHUNK` bytes of pixels."""

    def begin(self, needs: Needs, shape: tuple[int, ...], step: int) -> tuple[int, Seen]:
        """Take images of this shape [ch, H, W], `step` a chunk.

        Returns the number of chunks that are there already, and what was seen in them.
        """

    def write(self, chunk: int, images: np.ndarray, seen: Seen) -> None:
        """Keep the images of a chunk, uint8 [n, ch, H, W]."""


class _Again(Exception):
    """An image needs more than those before it: all are decoded again. mixed: words about their sizes."""

    def __init__(self, needs: Needs, mixed: str = "") -> None:
        super().__init__()
        self.needs, self.mixed = needs, mixed


def decode_all(pictures: Pictures, reading: Reading, needs: Needs, sink: Sink) -> tuple[Needs, Seen]:
    """Decode all images into a sink, with the channels, the range and the size that suit all of them.

    Args:
        pictures: the images, of several sizes where `needs` or nothing names a size.
        reading: whether to skip unreadable ones, and the largest side that is chosen for mixed sizes.
        needs: what is known before.
        sink: where they go. Rows of unreadable images are black.

    Returns:
        What all images have in common, and what was seen.

    Raises:
        UserError: that names and counts the unreadable images, unless they are to be skipped.
    """
    mixed = ""
    while True:
        try:
            needs, seen = _pass(pictures, reading, needs, sink, mixed)
            return needs, seen
        except _Again as again:
            needs, mixed = again.needs, again.mixed or mixed


def _pass(pictures: Pictures, reading: Reading, needs: Needs, sink: Sink, mixed: str) -> tuple[Needs, Seen]:
    """Decode all images once. Raises `_Again` where one needs more than `needs`."""
    first, shape, needs = _first(pictures, reading, needs)
    step = max(1, CHUNK // math.prod(shape))
    begun, seen = sink.begin(needs, shape, step)
    place = begun * step
    serial = needs.size is None and math.prod(shape[1:]) < SERIAL_PIXELS
    images = _decoded(pictures.items(place), needs, serial)
    total = math.ceil(pictures.count / step)
    progress = reading.progress if total > 1 else Silent()
    with progress.stage("decoding", total) as stage:
        for _ in range(begun):
            stage.advance()
        while chunk := list(islice(images, step)):
            here = np.zeros((len(chunk), *shape), np.uint8)
            told = Seen(mixed=mixed)
            for row, (title, image) in enumerate(chunk):
                if isinstance(image, BadImage):
                    if not reading.skip_bad:
                        raise _blame(image, pictures, place + row, reading)
                    told.bad.append(place + row)
                    continue
                if image.highest or image.pixels.shape != shape:
                    _check(image, title, shape, needs, first, pictures, reading)
                here[row] = image.pixels  # grey among colour: the same in all channels
                if any(image[1:]):
                    told.add(Seen([], image.clear, image.highest, image.deep_colour, "", image.frames))
            sink.write(place // step, here, told)
            seen.add(told)
            place += len(chunk)
            stage.advance()
    return needs, seen


def _first(pictures: Pictures, reading: Reading, needs: Needs) -> tuple[str, tuple[int, ...], Needs]:
    """What the first readable image is called, the shape [ch, H, W] of all, and what all need as far as it tells."""
    error: BadImage | None = None
    for row, item in enumerate(pictures.items(0)):
        try:
            image = decode(*item, needs)
        except BadImage as bad:
            error = error or bad
            if not reading.skip_bad:
                raise _blame(bad, pictures, row, reading) from bad
            continue
        if image.highest and needs.bits is None:
            needs = needs._replace(bits=bits_of(image.highest))
        channels, height, width = image.pixels.shape
        return item[0], (needs.channels or channels, height, width), needs._replace(channels=needs.channels or channels)
    count = counted(pictures.count, "image")
    raise UserError(f"none of {count} can be read: {error}" if error else "there are no images")


def _check(
    image: Decoded, title: str, shape: tuple[int, ...], needs: Needs, first: str, pictures: Pictures, reading: Reading
) -> None:
    """Raise `_Again` where an image needs more than `needs` say."""
    if image.highest and bits_of(image.highest) > (needs.bits or 0):
        raise _Again(needs._replace(bits=bits_of(image.highest)))
    if len(image.pixels) > shape[0] == 1:
        raise _Again(needs._replace(channels=len(image.pixels)))
    if len(image.pixels) not in (1, shape[0]):
        raise UserError(f"{first} has {shape[0]} channels, {title} has {len(image.pixels)}; give all the same")
    if image.pixels.shape[1:] != shape[1:]:
        (height, width), (other_height, other_width) = shape[1:], image.pixels.shape[1:]
        sizes = f"{first} with {width}x{height} and {title} with {other_width}x{other_height}"
        mixed = f"images of mixed sizes, such as {sizes}"
        raise _Again(needs._replace(size=_chosen_size(pictures, reading.largest_side)), mixed)


def _chosen_size(pictures: Pictures, largest: int) -> int:
    """The median of the short sides, at most `largest` pixels."""

    def side(item: Named) -> int | None:
        try:
            return short_side(*item)
        except BadImage:
            return None

    sides: list[int] = []
    items = pictures.items(0)
    with ThreadPoolExecutor(cores()) as threads:
        while batch := list(islice(items, BATCH)):
            sides += [known for known in threads.map(side, batch) if known is not None]
    return min(largest, int(np.median(sides)))


def _decoded(items: Iterator[Named], needs: Needs, serial: bool) -> Iterator[tuple[str, Decoded | BadImage]]:
    """Each image, or what is wrong with it, in order. PIL decodes without the GIL, so large ones go to threads."""
    # Grey images are looked for as long as there are no others: a colour image is not to be made grey.
    loose = needs._replace(channels=None) if needs.channels == 1 else needs

    def one(item: Named) -> tuple[str, Decoded | BadImage]:
        try:
            return item[0], decode(*item, loose)
        except BadImage as error:
            return item[0], error

    def group(these: list[Named]) -> list[tuple[str, Decoded | BadImage]]:
        return [one(item) for item in these]

    if serial:
        yield from map(one, items)
        return
    waiting: deque[Future[list[tuple[str, Decoded | BadImage]]]] = deque()
    threads = ThreadPoolExecutor(cores())
    try:
        while True:
            while len(waiting) < AHEAD * cores() and (these := list(islice(items, GROUP))):
                waiting.append(threads.submit(group, these))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _blame(error: BadImage, pictures: Pictures, row: int, reading: Reading) -> UserError:
    """What to raise for unreadable images: the first one named, and how many there are where that is soon known."""
    if pictures.size_bytes > SOON_READ:
        return UserError(f"{error}; repair or remove it, or leave unreadable images out with --skip_bad")
    bad = 1 + sum(
        isinstance(image, BadImage) for _, image in _decoded(pictures.items(row + 1), Needs(size=reading.size), False)
    )
    what, them = ("it is 1 of", "it") if bad == 1 else (f"{bad:,} of", "them")
    cannot = "" if bad == 1 else " images cannot be read"
    return UserError(
        f"{error}; {what} {pictures.count:,}{cannot}: repair or remove {them}, or leave {them} out with --skip_bad"
    )


SOON_READ = 64 << 20  # bytes of image files that are read again to count the unreadable ones


class InMemory:
    """A sink in memory."""

    def __init__(self, count: int) -> None:
        self.count, self.step = count, 0
        self.images = np.empty((0, 1, 1, 1), np.uint8)

    def begin(self, needs: Needs, shape: tuple[int, ...], step: int) -> tuple[int, Seen]:
        """Nothing is there before."""
        self.step = step
        if self.images.shape != (self.count, *shape):
            self.images = np.empty((self.count, *shape), np.uint8)
        return 0, Seen()

    def write(self, chunk: int, images: np.ndarray, seen: Seen) -> None:
        """Keep them."""
        self.images[chunk * self.step : chunk * self.step + len(images)] = images
