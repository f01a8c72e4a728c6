"""Kernels that multiply by packed rows as they are, for a model in use: our own in C, or torch's for a few rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune import native
from pretune.native import program as step
from pretune.nn.activation import Activation, gelu_new, linear, quick_gelu, relu_squared
from pretune.nn.formats.format import INPUT_LEVELS, Dense, InputRounding, Packed
from pretune.nn.formats.levels import half_scales, nibbles
from pretune.nn.packed import Product, constant_product, packable

ACTIVATIONS: Mapping[Activation, step.Activation] = {
    linear: "none",
    F.relu: "relu",
    F.gelu: "gelu",
    gelu_new: "gelu_tanh",
    F.silu: "silu",
    torch.tanh: "tanh",
    quick_gelu: "quick_gelu",
    relu_squared: "relu_squared",
    torch.sigmoid: "sigmoid",
}
"""What kernels call the activations that they compute."""

_INPUT_GROUP = 32
_SMALLEST = 1e-30  # largest number of a group that is not rounded to zeros: of smaller ones the inverse is infinite
_MANY = 64  # rows from which oneDNN's bf16 matmul with rows that are dequantised first is faster than exact sums in C
_FEW = 8  # rows for which a copy in bf16 is made


class _Round(torch.autograd.Function):
    """Rounds rows in groups of 32; the gradient passes as if nothing was rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, highest: int) -> Tensor:
        return _rounded(x, highest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _rounded(x: Tensor, highest: int) -> Tensor:
    """Rounds rows in groups of 32, in as few operators as will do: a decoded token has 49 such rows. Shape: same."""
    width = x.shape[-1]
    wide = x.float() if width % _INPUT_GROUP == 0 else F.pad(x.float(), (0, -width % _INPUT_GROUP))
    groups = wide.view(*wide.shape[:-1], wide.shape[-1] // _INPUT_GROUP, _INPUT_GROUP)
    largest = groups.abs().amax(-1, keepdim=True)
    scale = largest / highest
    inverse = scale.reciprocal().masked_fill_(largest < _SMALLEST, 0.0)
    rounded = (groups * inverse).round_().mul_(scale).flatten(-2)
    return (rounded if rounded.shape[-1] == width else rounded[..., :width]).to(x.dtype)


def round_inputs(x: Tensor, inputs: InputRounding = "int8") -> Tensor:
    """What a matmul reads: rows rounded in groups of 32, each with its own scale in fp32. Shape: (T, in) -> same."""
    if inputs == "exact":
        return x
    highest = INPUT_LEVELS[inputs]
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _rounded(x, highest)
    out: Tensor = _Round.apply(x, highest)  # type: ignore[no-untyped-call]
    return out


class Kernels:
    """Multiplies by the packed rows of one matrix, where that is faster than by rows that are dequantised first.

    With our kernels a row's sum has one order whatever stands beside it. Without them, and where the model is in bf16,
    torch's are used for a few rows: `int8` and `q4_0` have their own, `q8_0` is multiplied as a copy in bf16, which any
    number of rows uses once it is there.

    Args:
        name: of the format.
        dense, tensors: what it stands for, and holds.
        bias: (out,) or None.
        inputs: whether rows are rounded first.
        activation: after the product; None for none.
    """

    def __init__(
        self,
        name: str,
        dense: Dense,
        tensors: Packed,
        bias: Tensor | None,
        inputs: InputRounding,
        activation: Activation | None = None,
    ) -> None:
        self._name, self._dense, self._tensors, self._bias, self._inputs = name, dense, tensors, bias, inputs
        self._activation = linear if activation is None else activation

    def multiply(self, x: Tensor) -> Tensor | None:
        """The product with its bias and activation; None where no kernel is faster for these rows.

        Shape:
            (T, in) -> (T, out)
        """
        y = self._product(x)
        if y is None or (native.available() and self._activation in ACTIVATIONS):
            return y
        return self._activation(y)

    def _product(self, x: Tensor) -> Tensor | None:
        """With its activation where our kernels compute it."""
        if x.device.type != "cpu" or not len(x):
            return None
        half = x.dtype == torch.bfloat16
        if native.available():
            if self._name == "bf16":
                return (self._rounding if half else self._exact)(round_inputs(x, self._inputs))
            if self._inputs != "exact":
                return self._rounding(x)
            return None if half and len(x) > _MANY else self._exact(x)
        if torch.is_autocast_enabled("cpu"):  # a vocabulary's rows are in fp32, and its matmul in bf16 with all others
            x = x.to(torch.get_autocast_dtype("cpu"))
        if x.dtype != torch.bfloat16 or not self._suits_torch(len(x)) or self._torch is None:
            return None
        y = self._torch(round_inputs(x, self._inputs))
        return y if self._bias is None else y + self._bias.to(y.dtype)

    def _suits_torch(self, rows: int) -> bool:
        """Whether torch's product is faster than one by rows that are dequantised first."""
        if self._name in _TORCH:
            return rows <= _TORCH_ROWS[self._name]
        return rows <= _FEW or "_torch" in self.__dict__  # a copy that is there is the fastest for any number

    @property
    def bytes_to_pack(self) -> int:
        """Bytes of the copy that the first rows will make; 0 where it is there, or none is made on this machine."""
        tensors = list(self._tensors.values())
        if tensors[0].device.type != "cpu":
            return 0
        if native.available():
            return 0 if "_matrix" in self.__dict__ else sum(tensor.nbytes for tensor in tensors)
        is_packed = packable(tensors[0].new_empty(0, dtype=torch.bfloat16))
        if not is_packed or "_torch" in self.__dict__ or self._name == "int8":
            return 0
        if self._name in _TORCH:
            return tensors[0].nbytes
        row = self._dense({name: tensor[:1] for name, tensor in self._tensors.items()})
        return 2 * len(tensors[0]) * row.shape[1]

    @cached_property
    def _matrix(self) -> native.PackedMatrix:
        return native.PackedMatrix(native.matrix_of(cast(Any, self._name), self._tensors))

    def _packed(self, rounded: bool) -> native.PackedProduct:
        activation, seven_bits = ACTIVATIONS.get(self._activation, "none"), self._inputs == "int7"
        return native.PackedProduct(self._matrix, self._bias, activation, rounded=rounded, seven_bits=seven_bits)

    @cached_property
    def _exact(self) -> native.PackedProduct:
        return self._packed(False)

    @cached_property
    def _rounding(self) -> native.PackedProduct:
        return self._packed(True)

    @cached_property
    def _torch(self) -> Product | None:
        """A product with few rows in bf16, without bias; None where this machine has no fast one."""
        values = next(iter(self._tensors.values()))
        if not packable(values.new_empty(0, dtype=torch.bfloat16)):
            return None
        make = _TORCH.get(self._name)
        return constant_product(self._dense(self._tensors).bfloat16(), None) if make is None else make(self._tensors)


def _by_rows(tensors: Packed) -> Product:
    """torch's product with whole numbers and a scale a row."""
    values, scale = tensors["values"], tensors["scale"].bfloat16()
    return lambda x: torch.ops.aten._weight_int8pack_mm(x.contiguous(), values, scale)


def _by_groups(tensors: Packed) -> Product | None:
    """torch's product with whole numbers of 4 bits, whose scales are rounded to bf16."""
    blocks = tensors["blocks"].view(len(tensors["blocks"]), -1, _INPUT_GROUP // 2 + 2)
    levels, scales = nibbles(blocks), half_scales(blocks)
    if len(levels) % 16:
        return constant_product((levels.view(*scales.shape, -1) * scales[..., None]).flatten(1).bfloat16(), None)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu((levels + 8).int(), 2)
    both = torch.stack([scales.t(), torch.zeros_like(scales.t())], -1).bfloat16().contiguous()
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x.contiguous(), packed, 32, both)


_TORCH_ROWS = {"int8": 16, "q4_0": 64}  # up to which they are faster, by AVX-512
_TORCH: dict[str, Callable[[Packed], Product | None]] = {"int8": _by_rows, "q4_0": _by_groups}
