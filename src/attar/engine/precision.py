"""Numeric precision: float32, tf32 or bf16."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from attar.engine.device import tensor_cores
from attar.errors import UserError, say_once


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `UserError` for a precision that the device does not support; warn about one that is slow there."""
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        if precision != "float32" and major < 8:
            name = torch.cuda.get_device_name(device)
            raise UserError(f"{name} has no {precision}; use --precision float32")
        return
    if precision == "tf32":
        raise UserError("tf32 exists on NVIDIA GPUs only; on a CPU use --precision float32")
    if precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        say_once("this CPU has no AVX512-BF16: bf16 works here, but float32 is faster", logging.WARNING)


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """With bf16, compute convolutions and products in the block in bfloat16; parameters and gradients stay float32."""
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
    else:
        yield


def set_matmul_precision(precision: str, device: torch.device) -> None:
    """On a GPU, use tensor cores for float32 products if the precision is tf32, and true float32 otherwise."""
    if device.type == "cuda":
        tensor_cores(products=precision == "tf32", convolutions=precision == "tf32")


@contextmanager
def matmul_precision(precision: str, device: torch.device) -> Iterator[None]:
    """In the block as `set_matmul_precision`, then as before."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    before = cuda.matmul.allow_tf32, cudnn.allow_tf32
    set_matmul_precision(precision, device)
    try:
        yield
    finally:
        tensor_cores(products=before[0], convolutions=before[1])


def use_differentiable_attention() -> None:
    """Let PyTorch compute attention from now on by the one of its kernels that has a second derivative."""
    for enable in (torch.backends.cuda.enable_flash_sdp, torch.backends.cuda.enable_mem_efficient_sdp):
        enable(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
