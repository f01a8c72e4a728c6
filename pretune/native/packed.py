"""Weights in the layout of the kernels, and a product that torch's code can call."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from pretune.errors import DataError, UsageError
from pretune.native import structs
from pretune.native.library import library
from pretune.native.memory import Arena
from pretune.native.program import GROUP, Activation, Format, Matrix

_BLOCK: Final = {"q8_0": GROUP + 2, "q4_0": GROUP // 2 + 2}
"""Bytes of 32 weights."""
_DTYPES: Final = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "q8_0": torch.uint8,
    "q4_0": torch.uint8,
}


class PackedMatrix:
    """A weight in panels of 32 outputs: as large as its tensors, which it does not keep.

    Args:
        matrix: the weight.
        arena: where its memory is taken from; by default it has its own.

    Raises:
        DataError: the width is not a multiple of the format's groups, the tensors are not of its shape, or a scale is
            not a finite number.
    """

    def __init__(self, matrix: Matrix, arena: Arena | None = None) -> None:
        self.format: Format = matrix.format
        self.out_features, self.in_features = matrix.out_features, matrix.in_features
        source, scale = _tensors(matrix)
        code = structs.FORMATS.index(matrix.format)
        functions = library().functions
        out, in_ = matrix.out_features, matrix.in_features
        size = packed_bytes(matrix)
        self._data = (arena or Arena([size])).take(size)
        functions.pretune_pack(
            ctypes.c_int32(code),
            ctypes.c_void_p(source.data_ptr()),
            ctypes.c_int64(out),
            ctypes.c_int64(in_),
            ctypes.c_void_p(self._data.data_ptr()),
        )
        self._scale = None if scale is None else padded(scale)
        self.struct = structs.Matrix(
            self._data.data_ptr(), None if self._scale is None else self._scale.data_ptr(), out, in_, code, 0
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._data.nbytes + (0 if self._scale is None else self._scale.nbytes)

    def rows(self, count: int) -> structs.Matrix:
        """The first rows, in the same memory: outputs lie in order, in panels that a product may read in part."""
        whole = self.struct
        return structs.Matrix(whole.data, whole.scale, count, whole.in_, whole.format, 0)

    def dense(self) -> Tensor:
        """The weight in fp32. Shape: (out, in)."""
        out = torch.empty(self.out_features, self.in_features)
        library().functions.pretune_dense(ctypes.byref(self.struct), ctypes.c_void_p(out.data_ptr()))
        return out


class PackedProduct:
    """y = activation(W x + bias) for any number of rows; a row's result does not depend on the others.

    Args:
        matrix: the weight.
        bias: or None.
        activation: after the product.
        rounded, seven_bits: whether and how activations are rounded first, as `program.Multiply` says.

    Shape:
        bias: (out,)
    """

    def __init__(
        self,
        matrix: Matrix | PackedMatrix,
        bias: Tensor | None = None,
        activation: Activation = "none",
        *,
        rounded: bool = True,
        seven_bits: bool = False,
    ) -> None:
        self.matrix = PackedMatrix(matrix) if isinstance(matrix, Matrix) else matrix
        self._bias = None if bias is None else padded(bias)
        self._activation = structs.ACTIVATIONS.index(activation)
        self._flags = structs.rounding_flags(rounded, seven_bits)
        self._bias_pointer = None if self._bias is None else self._bias.data_ptr()

    def __call__(self, x: Tensor) -> Tensor:
        """Shape: (..., in) of any float dtype -> (..., out) of the same; computed in fp32."""
        matrix = self.matrix
        if x.shape[-1] != matrix.in_features:
            raise ValueError(f"rows of {x.shape[-1]} values, a matrix of {matrix.in_features}")
        rows = x.detach().reshape(-1, matrix.in_features).to(torch.float32).contiguous()
        out = torch.empty(len(rows), matrix.out_features)
        call = structs.Product(
            ctypes.pointer(matrix.struct), rows.data_ptr(), self._bias_pointer, out.data_ptr(), matrix.in_features,
            matrix.out_features, len(rows), self._activation, self._flags, 0,
        )  # fmt: skip
        library().run_product(call)
        return out.to(x.dtype).view(*x.shape[:-1], matrix.out_features)


def product(
    format: Format,
    tensors: Mapping[str, Tensor],
    bias: Tensor | None,
    activation: Activation = "none",
    *,
    rounded: bool = True,
) -> PackedProduct:
    """A product with weights of `nn.formats`, for any number of rows.

    Shape:
        tensors: as of `program.Matrix`; bias: (out,) or None
    """
    return PackedProduct(matrix_of(format, tensors), bias, activation, rounded=rounded)


def matrix_of(format: Format, tensors: Mapping[str, Tensor]) -> Matrix:
    """A matrix whose shape follows from its tensors."""
    if format in _BLOCK:
        blocks = tensors["blocks"]
        return Matrix(format, tensors, blocks.shape[0], blocks.shape[1] // _BLOCK[format] * GROUP)
    values = tensors["values"]
    return Matrix(format, tensors, values.shape[0], values.shape[1])


def packed_bytes(matrix: Matrix) -> int:
    """Bytes of a matrix in panels, without the scales of rows."""
    code = structs.FORMATS.index(matrix.format)
    return int(library().functions.pretune_packed_bytes(code, matrix.out_features, matrix.in_features))


def padded(values: Tensor) -> Tensor:
    """Copies numbers of outputs in fp32, with zeros up to whole panels. Shape: (out,) -> (panels * 32,)."""
    size = -(-len(values) // structs.PANEL) * structs.PANEL
    out = torch.zeros(size)
    out[: len(values)] = values.detach().to("cpu", torch.float32)
    return out


def _tensors(matrix: Matrix) -> tuple[Tensor, Tensor | None]:
    """The values or blocks of a matrix, checked, and the scales of its rows."""
    name, out, in_ = matrix.format, matrix.out_features, matrix.in_features
    if name not in _DTYPES:
        raise UsageError(f"the kernels know no format {name!r}; they know {', '.join(_DTYPES)}")
    if name in _BLOCK and in_ % GROUP:
        raise DataError(
            f"{name}: {in_} inputs are not a multiple of its groups of {GROUP}; use int8, which has a scale a row, "
            "or bf16"
        )
    tensors = matrix.whole()
    source = tensors["blocks" if name in _BLOCK else "values"]
    width = in_ // GROUP * _BLOCK[name] if name in _BLOCK else in_
    if tuple(source.shape) != (out, width) or source.dtype != _DTYPES[name]:
        raise DataError(
            f"{name}: a matrix of {out} x {in_} has values of shape ({out}, {width}) and dtype {_DTYPES[name]}, "
            f"not {tuple(source.shape)} and {source.dtype}"
        )
    source = source.detach().to("cpu").contiguous()
    scale = tensors["scale"].detach() if name == "int8" else None
    if scale is not None and tuple(scale.shape) != (out,):
        raise DataError(f"int8: {out} rows need as many scales, not shape {tuple(scale.shape)}")
    scales = scale
    if name in _BLOCK:
        scales = source.view(out, -1, _BLOCK[name])[..., :2].contiguous().view(torch.float16)
    if scales is not None and not bool(torch.isfinite(scales).all()):
        raise DataError(f"{name}: a scale is not a finite number; pack the weights again from finite ones")
    return source, scale
