"""Sprite sheets: many small images in one picture, which takes less room in a page than one picture each."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

WEBP_QUALITIES = (90, 80, 65, 50, 35, 20)  # tried in turn where a PNG is too large


@dataclass(frozen=True)
class Sheet:
    """A picture of n images at T moments, as a data URL. The moments of an image are side by side, see `place`."""

    url: str
    columns: int  # of the picture, in images
    rows: int
    moments: int

    def place(self, image: int) -> tuple[int, int]:
        """Column and row of an image at the first moment; at moment t it is t columns further right."""
        across = self.columns // self.moments
        return image % across * self.moments, image // across


def sheet(moments: Sequence[np.ndarray], limit: int) -> Sheet:
    """Put the images uint8 [n, H, W, 3] of each moment into one sheet of at most about `limit` bytes.

    The page shows another moment by moving the sheet by whole widths of an image.
    """
    times, (n, height, width) = len(moments), moments[0].shape[:3]
    across = max(1, round(math.sqrt(n * height / (times * width))))
    rows = -(-n // across)
    tiles = np.zeros((rows * across, times, height, width, 3), dtype=np.uint8)
    tiles[:n] = np.stack(moments, axis=1)
    pixels = tiles.reshape(rows, across * times, height, width, 3).swapaxes(1, 2)
    picture = Image.fromarray(pixels.reshape(rows * height, across * times * width, 3))
    return Sheet(data_url(picture, limit), across * times, rows, times)


def data_url(picture: Image.Image, limit: int) -> str:
    """The picture as a data URL: a PNG if it has at most `limit` bytes, else a WebP of the best quality that has."""
    if not np.ptp(np.asarray(picture), axis=2).any():
        picture = picture.convert("L")
    data, format_name = _encoded(picture, "PNG", optimize=True), "png"
    for quality in WEBP_QUALITIES:
        if len(data) <= limit:
            break
        data, format_name = _encoded(picture, "WEBP", quality=quality), "webp"
    return f"data:image/{format_name};base64,{base64.b64encode(data).decode('ascii')}"


def _encoded(picture: Image.Image, file_format: str, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **options)
    return buffer.getvalue()
