"""Matmuls with constant weights, laid out for oneDNN where that is faster: what a model in use calls.

On a CPU with AVX-512 the weights are packed by oneDNN. For many rows its matmuls are 3 to 12 % faster than `F.linear`
(fp32: MKL is slow on AMD); for few rows, as in decoding, bf16 ones take half the time and fp32 ones of 4 rows a third.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.nn.activation import Activation

Product = Callable[[Tensor], Tensor]
"""A matmul with what follows it. Shape: (T, in) -> (T, out)."""

_ROWS = 1024  # for which oneDNN lays weights out; a layout for one row is slower at 4 rows and no faster at one


def packable(weight: Tensor) -> bool:
    """Whether oneDNN has kernels that are worth it: measured with AVX-512; bf16 needs its own instructions."""
    if weight.device.type != "cpu" or not torch._C._has_mkldnn or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class LazyProduct:
    """A product that is made when it first runs: packing takes time, and memory for a second copy of the weights.

    A model whose steps run by kernels of its own never multiplies by most of them.

    Args:
        make: makes it, of weights that do not change any more.
        size: bytes of the copy.
    """

    def __init__(self, make: Callable[[], Product], size: int) -> None:
        self._make: Callable[[], Product] | None = make
        self._size = size
        self._product: Product | None = None

    @property
    def bytes_to_pack(self) -> int:
        """Bytes that the copy will take; 0 where it is there."""
        return self._size if self._product is None else 0

    def __call__(self, x: Tensor) -> Tensor:
        """Shape: (T, in) -> (T, out)."""
        if self._product is None:
            assert self._make is not None
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                self._product = self._make()
            self._make = None
        return self._product(x)


def bytes_to_pack(product: Product) -> int:
    """Bytes of the copy of its weights that a product makes when it first runs; 0 of one that makes none."""
    return int(getattr(product, "bytes_to_pack", 0))


def constant_product(weight: Tensor, bias: Tensor | None, activation: Activation | None = None) -> Product:
    """A function that multiplies by a weight which does not change any more; it is packed when the function first runs.

    Shape:
        weight: (out, in); bias: (out,) or None
    """
    weight = weight.detach()
    bias = None if bias is None else bias.detach().to(weight.dtype)
    if not packable(weight):
        plain: Product = lambda x: F.linear(x, weight, bias)  # noqa: E731
        return plain if activation is None else lambda x: activation(plain(x))
    return LazyProduct(lambda: _packed_product(weight, bias, activation), weight.nbytes)


def _packed_product(weight: Tensor, bias: Tensor | None, activation: Activation | None) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous(), _ROWS)
    run = torch.ops.mkldnn._linear_pointwise.default
    if activation is F.gelu and weight.dtype == torch.float32:  # in bf16 a pass of its own is faster
        return lambda x: run(x, packed, bias, "gelu", [], "none")
    packed_product: Product = lambda x: run(x, packed, bias, "none", [], "")  # noqa: E731
    return packed_product if activation is None else lambda x: activation(packed_product(x))
