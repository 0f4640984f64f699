"""Convolutions, norms and pooling in the forms in which compiled code for a GPU is fastest.

Where one network serves all classes, vmap turns what differs between classes (weight gradients, and products with the
direction of a gradient) into grouped convolutions, which cuDNN computes slowly. Here they are one call for each class,
everything else is one call for all classes, and all maps are channels-last, the layout of tensor cores. Norm and
pooling are made of operations that the compiler fuses with their neighbours: of PyTorch's own it writes every result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]
Dims = tuple[int | None, ...]
ONE = (1, 1)


class GPUForms(TorchFunctionMode):
    """Within this context, convolutions of one group, group norm and pooling are computed by the functions below.

    A bias that an instance norm follows does nothing, since the norm takes the mean away. It is not added there, and
    has no gradient, which would be another pass over the maps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.biased: tuple[Tensor, Tensor] | None = None  # the last convolution with its bias, and without

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7:
            x, weight, bias, stride, padding, dilation, groups = args
            if groups == 1 and tuple(dilation) == ONE and not isinstance(padding, str):
                maps = convolution(x, weight, None, tuple(stride), tuple(padding))
                if bias is None:
                    return maps
                self.biased = maps + bias.to(maps.dtype)[:, None, None], maps
                return self.biased[0]
        if func is F.group_norm and args[0].dim() == 4:
            x, groups = args
            if self.biased is not None and x is self.biased[0] and groups == x.shape[1]:
                x = self.biased[1]
            return group_norm(x, groups, **(kwargs or {}))
        if func is F.avg_pool2d and not kwargs and len(args) == 2 and not any(n % args[1] for n in args[0].shape[2:]):
            return average_pool(*args)
        return func(*args, **(kwargs or {}))


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """As `torch.conv2d`, also under autocast; differentiable any number of times."""
    if torch.is_autocast_enabled("cuda"):
        low = torch.get_autocast_dtype("cuda")
        x, weight, bias = x.to(low), weight.to(low), None if bias is None else bias.to(low)
    maps: Tensor = Convolve.apply(ChannelsLast.apply(x), ChannelsLast.apply(weight), stride, padding)
    return maps if bias is None else maps + bias[:, None, None]


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """As `torch.group_norm` of maps [n, c, h, w], in float32 under autocast: x · scale + shift."""
    x = (x.float() if torch.is_autocast_enabled("cuda") else x).unflatten(1, (groups, -1))
    variance, mean = torch.var_mean(x, dim=(2, 3, 4), correction=0, keepdim=True)
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.view(groups, -1, 1, 1)
    shift = -mean * scale if bias is None else bias.view(groups, -1, 1, 1) - mean * scale
    return (x * scale + shift).flatten(1, 2)


def average_pool(x: Tensor, side: int) -> Tensor:
    """The means of squares of `side`, which divides both sides of the maps [n, c, h, w]."""
    return x.unflatten(3, (-1, side)).unflatten(2, (-1, side)).mean(dim=(3, 5))


class ChannelsLast(Function):
    """The same values in channels-last memory, once for all that read them.

    The compiler takes `contiguous` for a wish, writes the maps of all classes channels-first and copies each class that
    a convolution reads; its own operation for the layout is kept where it stands.
    """

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        from torch._inductor import inductor_prims  # only where something is compiled: it is slow to import

        _, c, h, w = x.shape
        return inductor_prims.force_stride_order(x, (c * h * w, 1, w * c, c)).view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g

    @staticmethod
    def vmap(info: Any, dims: Dims, x: Tensor) -> tuple[Tensor, int]:
        assert dims[0] is not None
        return ChannelsLast.apply(x.movedim(dims[0], 0).flatten(0, 1)).unflatten(0, (info.batch_size, -1)), 0


class Bilinear(Function):
    """A function that is linear in each of two tensors. There are three; the derivatives of each are the other two."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.rest = inputs[2:]


class Convolve(Bilinear):
    """(images [n, ci, h, w], weight [co, ci, kh, kw]) → maps [n, co, h', w']."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        return torch.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        g = ChannelsLast.apply(g)
        of_x = InputGradient.apply(g, weight, *ctx.rest, tuple(x.shape[2:]))
        return of_x, WeightGradient.apply(x, g, *ctx.rest, tuple(weight.shape[2:])), None, None

    @staticmethod
    def vmap(info: Any, dims: Dims, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _vectorised(Convolve, info.batch_size, dims, x, weight, rest)


class InputGradient(Bilinear):
    """(gradients of maps, weight) → gradients of images of `size` (h, w)."""

    @staticmethod
    def forward(g: Tensor, weight: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
        more = [
            side - ((out - 1) * step - 2 * pad + kernel)
            for side, out, step, pad, kernel in zip(size, g.shape[2:], stride, padding, weight.shape[2:], strict=True)
        ]
        return torch.conv_transpose2d(g, weight, None, stride, padding, more)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        g, weight = ctx.saved_tensors
        v = ChannelsLast.apply(v)
        stride, padding, _ = ctx.rest
        of_weight = WeightGradient.apply(v, g, stride, padding, tuple(weight.shape[2:]))
        return Convolve.apply(v, weight, stride, padding), of_weight, None, None, None

    @staticmethod
    def vmap(info: Any, dims: Dims, g: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _vectorised(InputGradient, info.batch_size, dims, g, weight, rest)


class WeightGradient(Bilinear):
    """(images, gradients of maps) → gradient of the weight, whose kernels have `size` (kh, kw)."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
        shape, last = (g.shape[1], x.shape[1], *size), torch.channels_last
        weight = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last)  # only its shape is read
        outputs = [False, True, False]
        made: Tensor = torch.ops.aten.convolution_backward(
            g, x, weight, None, stride, padding, ONE, False, (0, 0), 1, outputs
        )[1]
        return made

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        x, g = ctx.saved_tensors
        v = ChannelsLast.apply(v)
        stride, padding, _ = ctx.rest
        of_x = InputGradient.apply(g, v, stride, padding, tuple(x.shape[2:]))
        return of_x, Convolve.apply(x, v, stride, padding), None, None, None

    @staticmethod
    def vmap(info: Any, dims: Dims, x: Tensor, g: Tensor, *rest: Any) -> tuple[Tensor, int]:
        return _vectorised(WeightGradient, info.batch_size, dims, x, g, rest)


def _vectorised(
    function: type[Function], count: int, dims: Dims, one: Tensor, other: Tensor, rest: tuple[Any, ...]
) -> tuple[Tensor, int]:
    """All classes in one call where they share the weight, else one call for each."""
    one, other = (x if dim is None else x.movedim(dim, 0) for x, dim in zip((one, other), dims, strict=False))
    if dims[1] is None and function is not WeightGradient:
        return function.apply(one.flatten(0, 1), other, *rest).unflatten(0, (count, -1)), 0
    each = [
        function.apply(one if dims[0] is None else one[i], other if dims[1] is None else other[i], *rest)
        for i in range(count)
    ]
    return torch.stack(each), 0
