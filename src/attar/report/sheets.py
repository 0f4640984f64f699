"""Many small images as one picture: less to store in a page, and one address for a browser to keep."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

QUALITIES = (90, 80, 65, 50, 35, 20)  # of WebP, tried in turn where the exact pixels take too much room


@dataclass(frozen=True)
class Sheet:
    """A picture of n images at T moments, as a data address; image i at moment t stands in column `column(i) + t`."""

    address: str
    columns: int  # of the picture, in images
    rows: int
    moments: int

    def place(self, image: int) -> tuple[int, int]:
        """Column and row of an image at the first moment."""
        across = self.columns // self.moments
        return image % across * self.moments, image // across


def sheet(moments: Sequence[np.ndarray], limit: int) -> Sheet:
    """Images uint8 [n, H, W, 3] at each moment → one sheet of at most `limit` bytes, the exact pixels where they fit.

    The moments of an image stand side by side, so that time moves the picture by whole widths of an image.
    """
    times, (n, height, width) = len(moments), moments[0].shape[:3]
    across = max(1, round(math.sqrt(n * height / (times * width))))
    rows = -(-n // across)
    tiles = np.zeros((rows * across, times, height, width, 3), dtype=np.uint8)
    tiles[:n] = np.stack(moments, axis=1)
    pixels = tiles.reshape(rows, across * times, height, width, 3).swapaxes(1, 2)
    picture = Image.fromarray(pixels.reshape(rows * height, across * times * width, 3))
    return Sheet(address(picture, limit), across * times, rows, times)


def address(picture: Image.Image, limit: int) -> str:
    """A data address of the picture: PNG where its bytes fit into `limit`, else WebP of the best quality that does."""
    if not np.ptp(np.asarray(picture), axis=2).any():
        picture = picture.convert("L")
    data, kind = _encoded(picture, "PNG", optimize=True), "png"
    for quality in QUALITIES:
        if len(data) <= limit:
            break
        data, kind = _encoded(picture, "WEBP", quality=quality), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _encoded(picture: Image.Image, form: str, **how: int | bool) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **how)
    return buffer.getvalue()
