"""What makes a training step fast: bfloat16 where it pays, and memory that is kept instead of given back."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor, nn


def bfloat16_pays() -> bool:
    """Whether this machine computes in bfloat16 natively: a GPU that supports it, or a CPU with AMX or AVX-512 BF16."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001


def computes_in(precision: str) -> str:
    """`bfloat16` or `float32`: what `training.precision` comes to on this machine."""
    if precision == "auto":
        return "bfloat16" if bfloat16_pays() else "float32"
    return precision


class _InFloat32:
    """Mixin: a convolution that leaves autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute in float32 whatever autocast says."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())  # type: ignore[misc]


def depthwise_in_float32(module: nn.Module) -> None:
    """Keep the depth-wise convolutions of a CPU model in float32 under autocast; parameters and names stay.

    Their backward pass in bfloat16 is 4 to 8 times slower than in float32 on the CPU for 5 x 5 and strided kernels
    (oneDNN through PyTorch 2.14): half of a training step of EfficientNet-Lite.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups > 1 and conv.groups == conv.in_channels:
            kind = type(conv)
            conv.__class__ = type(f"Float32{kind.__name__}", (_InFloat32, kind), {})


def keep_freed_memory() -> None:
    """Let the C allocator keep large freed blocks (Linux with glibc; nothing happens elsewhere).

    By default every large tensor is mapped from the system and given back, and each step pays for clearing its pages
    again: about a third of a training step on the CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, such as musl
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)
