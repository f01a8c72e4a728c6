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


def constant_product(weight: Tensor, bias: Tensor | None, activation: Activation | None = None) -> Product:
    """A function that multiplies by a weight as it is now; it does not follow later changes.

    Shape:
        weight: (out, in); bias: (out,) or None
    """
    weight = weight.detach()
    bias = None if bias is None else bias.detach().to(weight.dtype)
    if not packable(weight):
        plain: Product = lambda x: F.linear(x, weight, bias)  # noqa: E731
        return plain if activation is None else lambda x: activation(plain(x))
    packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous(), _ROWS)
    run = torch.ops.mkldnn._linear_pointwise.default
    if activation is F.gelu and weight.dtype == torch.float32:  # in bf16 a pass of its own is faster
        return lambda x: run(x, packed, bias, "gelu", [], "none")
    packed_product: Product = lambda x: run(x, packed, bias, "none", [], "")  # noqa: E731
    return packed_product if activation is None else lambda x: activation(packed_product(x))
