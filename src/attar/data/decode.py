"""From files, bytes and PIL images to uint8 arrays: one place that knows modes, rotations, sizes and damage."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from attar.data.arrays import crop_plan
from attar.data.sources.locate import words
from attar.errors import UserError

GREY_MODES = frozenset(("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"))
SERIAL_PIXELS = 64 * 64  # below it an image is decoded in less time than two threads take to agree on it
BATCH = 1024  # images that are handed to the threads at once
PNG = b"\x89PNG"  # how the file begins
PLAIN = {"L": 1, "RGB": 3}  # mode -> channels

Source = Path | bytes | Image.Image
Named = tuple[str, Source]  # what it is called in a message, and where it comes from


class BadImage(UserError):
    """An image that cannot be read or has pixels that attar does not know."""


class _Coloured(Exception):
    """A colour image among what began as grey ones."""


@contextmanager
def opened(name: str, source: Source) -> Iterator[Image.Image]:
    """The image; BadImage when it, or what is done with it inside, fails."""
    try:
        if isinstance(source, Image.Image):
            yield source
        else:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                yield image
    except (UserError, MemoryError, _Coloured):
        raise
    except Exception as error:  # every format fails in its own way on damaged data
        raise BadImage(f"{name} is not a readable image: {words(error)}") from error


def decode(name: str, source: Source, channels: int | None, size: int | None) -> np.ndarray:
    """uint8 [channels, H, W], upright; channels None keeps what the image has: 1 for grey, 3 for all others.

    With `size` the short side becomes that many pixels (bilinear, antialiased) and the centre square is kept.
    """
    if size is None and isinstance(source, bytes) and source[:4] == PNG:
        values = _plain_png(source, channels)
        if values is not None:
            return values
    with opened(name, source) as image:
        image = ImageOps.exif_transpose(image)
        flat = _convert(image, "L" if (channels or 1 if image.mode in GREY_MODES else 3) == 1 else "RGB", name)
        if size is not None:
            tall, wide, top, left = crop_plan(flat.height, flat.width, size)
            flat = flat.resize((wide, tall), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
        values = np.frombuffer(flat.tobytes(), np.uint8)
        return values.reshape(flat.height, flat.width, len(flat.getbands())).transpose(2, 0, 1)


def _plain_png(source: bytes, channels: int | None) -> np.ndarray | None:
    """A PNG of 8-bit grey or colour and nothing else, as tables are full of: half the time of `decode`'s general way.

    None for all others, damaged ones included.
    """
    try:
        image = Image.open(io.BytesIO(source), formats=("PNG",))
        raw = image.tobytes()
    except Exception:  # the general way says what is wrong
        return None
    found = PLAIN.get(image.mode)
    if found is None or channels not in (None, found) or image.info:  # a rotation is noted in info or nowhere
        return None
    width, height = image.size
    return np.frombuffer(raw, np.uint8).reshape(height, width, found).transpose(2, 0, 1)


def _convert(image: Image.Image, mode: str, name: str) -> Image.Image:
    """The image with 8 bits a channel in mode L or RGB."""
    if image.mode == mode:
        return image
    if image.mode == "F":
        raise BadImage(f"{name} has 32-bit float pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # PIL clips 16-bit values at 255 when it converts
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadImage(f"{name} has 32-bit pixels; save it with 8 or 16 bits a channel")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # directly to RGB PIL warns
    return image.convert(mode)


def decode_all(
    items: Callable[[], Iterable[Named]],  # called again where a colour image follows grey ones
    count: int,
    *,
    channels: int | None = None,
    size: int | None = None,
    skip_bad: bool = False,
) -> tuple[np.ndarray, list[int]]:
    """uint8 [n, ch, H, W] of the readable ones of `count` images of one size, and the rows that were left out.

    channels None: 1 when all images are grey, else 3. Raises UserError that names the first unreadable image and
    counts them, unless `skip_bad`; and for images of several sizes when no size is given.
    """
    try:
        return _decode_all(items(), count, channels, size, skip_bad)
    except _Coloured:
        return _decode_all(items(), count, 3, size, skip_bad)


def _decode_all(
    items: Iterable[Named], count: int, channels: int | None, size: int | None, skip_bad: bool
) -> tuple[np.ndarray, list[int]]:
    out: np.ndarray | None = None
    first = ""
    bad: list[tuple[int, BadImage]] = []
    for row, (name, image) in enumerate(_decoded(items, channels, size)):
        if isinstance(image, BadImage):
            bad.append((row, image))
            continue
        if out is None:
            out, first = np.empty((count, *image.shape), np.uint8), name
        if len(image) != out.shape[1] and channels is None:
            if len(image) == 3:
                raise _Coloured
            image = image.repeat(3, 0)
        if image.shape != out.shape[1:]:
            sizes = [f"{first} is {out.shape[3]}x{out.shape[2]}", f"{name} is {image.shape[2]}x{image.shape[1]}"]
            raise UserError(f"images of mixed sizes: {', '.join(sizes)}; give one size for all with --size")
        out[row] = image
    if bad and (out is None or not skip_bad):
        raise blame([error for _, error in bad], count)
    if out is None:
        raise UserError("there are no images")
    rows = [row for row, _ in bad]
    return (np.delete(out, rows, 0) if rows else out), rows


def _decoded(
    items: Iterable[Named], channels: int | None, size: int | None
) -> Iterator[tuple[str, np.ndarray | BadImage]]:
    """Each image, or what is wrong with it, in order. PIL decodes without the GIL, so large ones go to threads."""

    def one(item: Named) -> tuple[str, np.ndarray | BadImage]:
        try:
            return item[0], decode(*item, channels, size)
        except BadImage as error:
            return item[0], error

    waiting = iter(items)
    for item in waiting:
        name, image = one(item)
        yield name, image
        if isinstance(image, np.ndarray):
            if size is None and image[0].size < SERIAL_PIXELS:
                yield from map(one, waiting)
            break
    with ThreadPoolExecutor() as threads:
        while batch := list(islice(waiting, BATCH)):
            yield from threads.map(one, batch)


def blame(errors: Sequence[UserError], count: int) -> UserError:
    """What to raise for the images that cannot be read, out of `count`."""
    if len(errors) == 1:
        return UserError(f"{errors[0]}; it is 1 of {count:,}: repair or remove it, or leave it out with --skip_bad")
    return UserError(
        f"{errors[0]}; {len(errors):,} of {count:,} images cannot be read: repair or remove them, "
        f"or leave them out with --skip_bad"
    )


def left_out(count: int) -> str:
    """The line about images that `skip_bad` left out."""
    return (
        f"{count:,} image{' was' if count == 1 else 's were'} left out: unreadable"
        if count
        else "all images are readable"
    )
