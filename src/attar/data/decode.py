"""From files, bytes and PIL images to uint8 arrays: one place that knows modes, rotations, ranges, sizes and damage."""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps

from attar.data.arrays import crop_plan, resample
from attar.data.sources.locate import words
from attar.errors import UserError

GREY_MODES = frozenset(("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"))
CLEAR_MODES = frozenset(("LA", "La", "PA", "RGBA", "RGBa"))  # with transparency
TIFF_BITS = 258  # the tag of a TIFF that has them
RANGES = (8, 10, 12, 14, 16)  # bits that cameras and scanners have
FULL_RANGE = 16
LARGE_PIXELS = 1 << 24  # images of more pixels are decoded one at a time
DRAFT = 4  # a JPEG is decoded smaller where its short side is so many times the size
ORIENTATION = 0x0112  # the EXIF tag
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # how the files begin
PNG_HEADER, PNG_LENGTH = (
    struct.Struct(">II5B"),
    struct.Struct(">I"),
)  # of a PNG: width, height, depth, colour, ...; a length
PLAIN = {0: "L", 2: "RGB"}  # a PNG's colour type → mode
# Formats that Pillow only identifies, or hands to another program.
NOT_DECODED = frozenset(("BUFR", "GRIB", "HDF5", "MPEG", "WMF", "EPS"))

Source = str | bytes | Image.Image | np.ndarray  # the path of a file; its bytes; decoded; uint8 [ch, H, W]
Named = tuple[str, Source]  # what it is called in a message, and where it comes from
one_large = threading.Lock()


class BadImage(UserError):
    """An image that cannot be read or has pixels that attar does not know."""


class Needs(NamedTuple):
    """What all images of a data set have in common.

    channels: 1, 3, or None for what the image has; size: pixels of the side that images are brought to, None for their
    own; bits: of the range of images with 16 bits a channel, None where it is not known.
    """

    channels: int | None = None
    size: int | None = None
    bits: int | None = None


class Decoded(NamedTuple):
    """An image and what was seen while it was decoded.

    pixels: uint8 [channels, H, W]; highest: value of a grey image with 16 bits, 0 for others; deep_colour: the highest
    value of a colour image with 16 bits a channel, of which the upper 8 are read; clear: whether some of it is
    transparent; frames: whether it has more than the first frame or page, which is the one that is read.
    """

    pixels: np.ndarray
    highest: int = 0
    deep_colour: int = 0
    clear: bool = False
    frames: bool = False


@cache
def suffixes() -> frozenset[str]:
    """Of files that the installed Pillow decodes, in lower case."""
    Image.init()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in formats())


@cache
def formats() -> tuple[str, ...]:
    """Formats that the installed Pillow decodes."""
    Image.init()
    return tuple(kind for kind in Image.OPEN if kind not in NOT_DECODED)


@contextmanager
def opened(name: str, source: str | bytes | Image.Image) -> Iterator[Image.Image]:
    """The image; BadImage when it, or what is done with it inside, fails."""
    try:
        if isinstance(source, Image.Image):
            yield source
            return
        if isinstance(source, str) and not stat.S_ISREG(os.stat(source).st_mode):
            raise BadImage(f"{name} is no image: it is no regular file")
        if isinstance(source, bytes) and not source:
            raise BadImage(f"{name} has no image: it is empty")
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats()) as image:
            yield image
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        link = isinstance(source, str) and os.path.islink(source)
        raise BadImage(f"{name} is not a readable image: {'a link to nothing' if link else words(error)}") from error
    except Image.UnidentifiedImageError as error:
        raise BadImage(f"{name} is not a readable image: its content is no image that Pillow knows") from error
    except Exception as error:  # every format fails in its own way on damaged data
        raise BadImage(f"{name} is not a readable image: {words(error)}") from error


def short_side(name: str, source: Source) -> int:
    """Pixels of an image's short side, from its header."""
    if isinstance(source, np.ndarray):
        return min(source.shape[1:])
    with opened(name, source) as image:
        return min(image.size)


def decode(name: str, source: Source, needs: Needs) -> Decoded:
    """The image, upright, with 8 bits a channel.

    Args:
        name: what it is called in a message.
        source: where it comes from.
        needs: what all images have in common. With a size the short side becomes that many pixels (bilinear,
            antialiased) and the centre square is kept.

    Returns:
        The pixels, and what was seen.

    Raises:
        BadImage: for what is no image, or has pixels of more than 16 bits.
    """
    if isinstance(source, np.ndarray):
        return Decoded(_fitted(source, needs))
    if needs.size is None and not isinstance(source, Image.Image):
        values = _plain_png(source, needs.channels)
        if values is not None:
            return Decoded(values)
    with opened(name, source) as image:
        if image.width * image.height <= LARGE_PIXELS:
            return _decode(name, image, needs)
        with one_large:
            return _decode(name, image, needs)


def _fitted(image: np.ndarray, needs: Needs) -> np.ndarray:
    """An image that is decoded already, with the channels and the size that all have."""
    if needs.size is not None and image.shape[1:] != (needs.size, needs.size):
        image = resample(torch.from_numpy(np.ascontiguousarray(image))[None], needs.size)[0].numpy()
    return image.repeat(needs.channels, 0) if needs.channels and len(image) == 1 else image


def _decode(name: str, image: Image.Image, needs: Needs) -> Decoded:
    deep, from_file = _is_deep_colour(image), isinstance(image, ImageFile.ImageFile)
    frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))  # MPO: previews, of a camera
    if needs.size is not None and min(image.size) >= DRAFT * needs.size:
        share = DRAFT / 2 * needs.size / min(image.size)
        image.draft(None, (round(image.width * share), round(image.height * share)))  # of formats that can: JPEG
        if image.width * image.height > LARGE_PIXELS:
            image, from_file = _smaller(image, needs.size), False
    upright = image if from_file else ImageOps.exif_transpose(image)
    if from_file:
        ImageOps.exif_transpose(image, in_place=True)  # without a copy
    grey = (needs.channels or (1 if upright.mode in GREY_MODES else 3)) == 1
    clear = _is_clear(upright)
    flat, highest = _convert(upright, "L" if grey else "RGB", name, needs.bits or FULL_RANGE)
    brightest = max(int(high) for _, high in _extrema(flat)) if deep else 0
    if needs.size is not None:
        tall, wide, top, left = crop_plan(flat.height, flat.width, needs.size)
        flat = flat.resize((wide, tall), Image.Resampling.BILINEAR)
        flat = flat.crop((left, top, left + needs.size, top + needs.size))
    values = np.frombuffer(flat.tobytes(), np.uint8)
    pixels = values.reshape(flat.height, flat.width, len(flat.getbands())).transpose(2, 0, 1)
    return Decoded(pixels, highest, brightest, clear, frames)


def _smaller(image: Image.Image, size: int) -> Image.Image:
    """A large image reduced by a whole factor, to no less than half of DRAFT times the size."""
    factor = min(image.size) * 2 // (DRAFT * size)
    if factor < 2 or image.mode in ("P", "PA", "1") or image.mode.startswith("I"):
        return image
    orientation = image.getexif().get(ORIENTATION, 1)
    small = image.reduce(factor)
    turned = Image.Exif()
    turned[ORIENTATION] = orientation
    small.info["exif"] = turned.tobytes()
    return small


def _extrema(image: Image.Image) -> tuple[tuple[float, float], ...]:
    extrema = image.getextrema()
    return extrema if isinstance(extrema[0], tuple) else (extrema,)


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether it is a colour image with 16 bits a channel: Pillow reads the upper 8."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return bool(tiles) and image.mode in ("RGB", "RGBA") and ";16" in str(tiles[0][3])


def _is_clear(image: Image.Image) -> bool:
    """Whether some of it is transparent."""
    if image.mode in CLEAR_MODES:
        return bool(_extrema(image)[-1][0] < 255)
    return "transparency" in image.info


def _plain_png(source: str | bytes, channels: int | None) -> np.ndarray | None:
    """A PNG of 8-bit grey or colour and nothing else, as small ones are: in a third of the time of the general way.

    None for all others, damaged ones included: the general way says what is wrong.
    """
    try:
        if isinstance(source, str):
            if not source.endswith(".png") or not stat.S_ISREG(os.stat(source).st_mode):
                return None
            with open(source, "rb", buffering=0) as file:
                source = file.read()
        if not source.startswith(PNG) or zlib.crc32(source[12:29]) != PNG_LENGTH.unpack_from(source, 29)[0]:
            return None
        width, height, depth, colour, _, _, interlaced = PNG_HEADER.unpack_from(source, 16)
        mode = PLAIN.get(colour, "")
        bands = len(mode)
        if depth != 8 or interlaced or channels not in (None, bands) or not 0 < width * height <= LARGE_PIXELS:
            return None
        place, parts = 33, []
        while (chunk := source[place + 4 : place + 8]) == b"IDAT":
            after = place + 8 + PNG_LENGTH.unpack_from(source, place)[0]
            parts.append(source[place + 8 : after])
            place = after + 4
        if chunk != b"IEND":  # a palette, transparency, a rotation
            return None
        raw = Image.frombytes(mode, (width, height), b"".join(parts), "zip", mode).tobytes()
    except (OSError, ValueError, struct.error):
        return None
    return np.frombuffer(raw, np.uint8).reshape(height, width, bands).transpose(2, 0, 1)


def _convert(image: Image.Image, mode: str, name: str, bits: int) -> tuple[Image.Image, int]:
    """The image with 8 bits a channel in mode L or RGB, and the highest value of one with 16 bits."""
    if image.mode == mode:
        return image, 0
    if image.mode == "F":
        raise BadImage(f"{name} has 32-bit float pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # PIL clips 16-bit values at 255 when it converts
        values = np.asarray(image)
        highest = int(values.max())
        if values.min() < 0 or highest > 65535 or _stored_bits(image) > FULL_RANGE:
            raise BadImage(f"{name} has 32-bit pixels; save it with 8 or 16 bits a channel")
        grey = np.rint(np.arange(1 << FULL_RANGE) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey[values]).convert(mode), highest
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # directly to RGB PIL warns
    return image.convert(mode), 0


def _stored_bits(image: Image.Image) -> int:
    """The bits of a grey value in a TIFF, which may be fewer than Pillow reads; 0 for other images."""
    return int(getattr(image, "tag_v2", {}).get(TIFF_BITS, (0,))[0])


def bits_of(highest: int) -> int:
    """The smallest of `RANGES` that holds a value."""
    return next(bits for bits in RANGES if highest < 2**bits)
