"""The pixels of sets that come from files, in units of [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from attar.data.images import ImageData
from attar.errors import UserError, log

CLOSE = 1e-3  # how far from [0, 1] rounding may take a value
SLIGHTLY = 0.25  # how far the files of IDC, Acc-DD and NCFM may leave it
BYTES_FROM = 8.0  # the highest value from which images with none below 0 are in 0..255
FAR = 4.0  # how far from [0, 1] images may be once they are no longer normalised


def in_unit(images: Tensor, data: ImageData, where: str, *, normalized: bool, unbounded: bool) -> Tensor:
    """float32 in [0, 1]; normalised images may leave it, as some methods let theirs, and so may `unbounded` ones.

    Raises UserError for values that are neither in [0, 1], nor 0..255, nor, where `normalized`, normalised.
    """
    if images.dtype == torch.uint8:
        if normalized:
            raise UserError(f"the images of {where} are bytes, 0..255, and not normalised; leave --normalized out")
        return images.float() / 255
    x = images.float() if images.is_floating_point() else images
    if not images.is_floating_point() or not bool(x.isfinite().all()):
        kind = "values that are not finite" if images.is_floating_point() else str(images.dtype).removeprefix("torch.")
        raise UserError(f"the images of {where} are {kind}; uint8, or float in [0, 1], is needed")
    low, high = (float(value) for value in x.aminmax())
    if normalized:
        return _no_longer_normalized(x, data, where)
    if unbounded:
        return x
    if low >= -CLOSE and high <= 1 + CLOSE:
        return x.clamp(0, 1)
    if low >= -SLIGHTLY and high <= 1 + SLIGHTLY:
        share = float(((x < 0) | (x > 1)).float().mean())
        log.warning(
            "the images of %s run from %.3g to %.3g: the %.2g %% of values outside [0, 1] are clamped",
            *(where, low, high, 100 * share),
        )
        return x.clamp(0, 1)
    if low >= -SLIGHTLY and BYTES_FROM <= high <= 255 + SLIGHTLY:
        log.warning("the images of %s run from %.3g to %.3g: they are taken as 0..255", where, low, high)
        return (x / 255).clamp(0, 1)
    raise UserError(
        f"the images of {where} run from {low:.3g} to {high:.3g}, which is neither 0..1 nor 0..255; "
        f"add --normalized if they are normalised with the data's mean and std"
    )


def _no_longer_normalized(x: Tensor, data: ImageData, where: str) -> Tensor:
    """Images times std plus mean, or not whitened any more.

    Raises UserError where that is far from [0, 1], so that they were not normalised.
    """
    low, high = (float(value) for value in x.aminmax())
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (data.mean, data.std))
    if low >= 0:  # no value below the mean
        range_ = "0..1" if high <= 1 + SLIGHTLY else "0..255"
        raise UserError(
            f"the images of {where} run from {low:.3g} to {high:.3g}, as images in {range_} do; leave --normalized out"
        )
    unit = x * std + mean if data.whitening is None else data.whitening.inverse(x)
    low, high = (float(value) for value in unit.aminmax())
    if low < -FAR or high > 1 + FAR:
        raise UserError(
            f"the images of {where} would run from {low:.3g} to {high:.3g} once they are no longer normalised, where 0 "
            f"is black and 1 is white: they were not normalised with the mean and std of {data.name}"
        )
    if low < -CLOSE or high > 1 + CLOSE:
        log.warning(
            "the images of %s run from %.3g to %.3g, where 0 is black and 1 is white; they stay so", where, low, high
        )
    return unit
