"""Bricks whose matrices are rounded to a format of `nn/formats/`: they are read, multiplied by, and never learn.

What is packed lies in buffers that `state_dict` leaves out: it belongs to the base, whose folder holds it. What lies
below gets its gradient through the rounded values, of which no dequantised copy is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Self

import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.activation import Activation
from pretune.nn.cross_entropy import linear_cross_entropy, sampled_cross_entropy
from pretune.nn.formats.format import (
    Format,
    InputRounding,
    Packed,
    count_rows,
    dense_blocks,
    find_format,
    format_name,
    join,
    pack,
    take,
)
from pretune.nn.formats.kernels import round_inputs
from pretune.nn.formats.rounded_matmul import rounded_matmul
from pretune.nn.packed import Product
from pretune.nn.vocabulary import values_for

_find = cache(find_format)
_UNDER = ("base", "replacement")  # names of modules that stand at the place of the module that they are in


class PackedMatrix(nn.Module):
    """A matrix in a format. Only its device changes, whatever the model around it is cast to.

    Args:
        format: of the tensors.
        tensors: by the names of the format; they may be without memory.
        width: columns of the matrix.

    Attributes:
        dtype: to which the model around it was cast.
    """

    def __init__(self, format: Format, tensors: Packed, width: int) -> None:
        super().__init__()
        self.name, self.width, self.rows = format_name(format), width, count_rows(tensors)
        self.dtype = torch.float32
        self._keys = tuple(tensors)
        for key, tensor in tensors.items():
            self.register_buffer(key, tensor, persistent=False)

    @property
    def format(self) -> Format:
        """The format, which is found by its name, so that a copy of the model shares it."""
        return _find(self.name)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.width

    def tensors(self) -> dict[str, Tensor]:
        """The packed rows. Shape: (rows, ...) of each."""
        return {key: self._buffers[key] for key in self._keys}  # type: ignore[misc]

    def fill(self, tensors: Packed) -> None:
        """Replaces the packed rows by others of the same shapes."""
        for key in self._keys:
            self._buffers[key] = tensors[key]

    def take(self, ids: Tensor) -> Tensor:
        """Values of some rows. Shape: any int64 -> (..., width) fp32."""
        values = self.format.dense(take(self.tensors(), ids.reshape(-1)))
        return values.view(*ids.shape, self.width)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """All values, in a new tensor. Shape: (rows, width)."""
        packed = self.tensors()
        device = next(iter(packed.values())).device
        out = torch.empty(self.rows, self.width, dtype=dtype, device=device)
        if not out.is_meta:
            for part, values in dense_blocks(self.format, packed):
                out[part] = values
        return out

    def zeros(self) -> Tensor:
        """A bias that adds nothing. Shape: (rows,)."""
        return torch.zeros(self.rows, dtype=self.dtype, device=next(iter(self.tensors().values())).device)

    def matmul(self, x: Tensor, inputs: InputRounding) -> Tensor:
        """Multiplies by the rows. Shape: (T, width) -> (T, rows)."""
        return rounded_matmul(round_inputs(x, inputs), self.format.dense, self.tensors())

    def product(self, bias: Tensor | None, activation: Activation | None, inputs: InputRounding) -> Product:
        """A function for a model in use. Shape: (T, width) -> (T, rows)."""
        return self.format.product(self.tensors(), None if bias is None else bias.detach(), activation, inputs)

    def extra_repr(self) -> str:
        """Shows format and shape in the module tree."""
        return f"{self.name}, {self.rows} x {self.width}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves the tensors, and notes a cast that they do not take part in."""
        before = self.tensors()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for key, tensor in before.items():
            moved = self._buffers[key]
            if moved is not None and moved.dtype != tensor.dtype:
                self._buffers[key] = tensor.to(moved.device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self


class RoundedProjection(nn.Module):
    """A linear map by a rounded matrix, at a projection's place. Its bias is a parameter as any other.

    Args:
        packed: the matrix.
        bias: (out,) or None.
        inputs: whether it reads its rows as they are, or rounded.

    Shape:
        packed: (out, in)
    """

    is_packed = True

    def __init__(self, packed: PackedMatrix, bias: nn.Parameter | None, inputs: InputRounding = "exact") -> None:
        super().__init__()
        self.in_features, self.out_features = packed.width, packed.rows
        self.packed = packed
        self.bias = bias
        self.inputs: InputRounding = inputs

    @classmethod
    def of(cls, format: Format, weight: Tensor, bias: Tensor | None, inputs: InputRounding = "exact") -> Self:
        """Rounds a matrix to the nearest. Shape: (out, in), (out,)."""
        parameter = bias if bias is None or isinstance(bias, nn.Parameter) else nn.Parameter(bias)
        return cls(PackedMatrix(format, pack(format, weight), weight.shape[1]), parameter, inputs)

    @property
    def dtype(self) -> torch.dtype:
        """To which the model around it was cast."""
        return self.packed.dtype

    @property
    def format(self) -> Format:
        """Of its matrix."""
        return self.packed.format

    def tensors(self) -> dict[str, Tensor]:
        """The packed rows, by the names of the format. Shape: (out, ...) of each."""
        return self.packed.tensors()

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Shape: (T, in) -> (T, out)."""
        y = self.packed.matmul(x, self.inputs)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """The values in a new tensor, and the bias. Shape: (out, in) fp32, (out,)."""
        return self.packed.dense(), self.bias

    def product(self, activation: Activation | None = None) -> Product | None:
        """The format's own product."""
        return self.packed.product(self.bias, activation, self.inputs)

    def joined(self, others: Sequence[object], activation: Activation | None = None) -> Product | None:
        """One product for this and others that read the same rows; None where they are packed in another way.

        Shape:
            (T, in) -> (T, sum of outs)
        """
        bricks: list[RoundedProjection] = [self]
        for other in others:
            if not isinstance(other, RoundedProjection) or other.packed.name != self.packed.name:
                return None
            if other.inputs != self.inputs or other.in_features != self.in_features:
                return None
            bricks.append(other)
        tensors = join([brick.tensors() for brick in bricks])
        biases = [brick.packed.zeros() if brick.bias is None else brick.bias.detach() for brick in bricks]
        bias = torch.cat(biases) if any(brick.bias is not None for brick in bricks) else None
        return self.format.product(tensors, bias, activation, self.inputs)

    def flops(self, rows: float) -> float:
        """A multiply-add is two."""
        return 2.0 * self.in_features * self.out_features * rows

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Sets the bias to 0. Nothing is drawn: the matrix has values from the beginning."""
        if self.bias is not None and not self.bias.is_meta:
            self.bias.zero_()


class RoundedVocabulary(nn.Module):
    """A rounded table of vectors, which serves an embedding, a head, or both.

    A loss dequantises the table for as long as it takes, in the dtype of matmuls, as a plain one is cast for it.

    Args:
        packed: the table.
        inputs: whether scores read their rows as they are, or rounded; losses read them as they are.

    Shape:
        packed: (V, width)
    """

    is_packed = True

    def __init__(self, packed: PackedMatrix, inputs: InputRounding = "exact") -> None:
        super().__init__()
        self.packed = packed
        self.inputs: InputRounding = inputs

    @classmethod
    def of(cls, format: Format, weight: Tensor, inputs: InputRounding = "exact") -> Self:
        """Rounds a table to the nearest. Shape: (V, width)."""
        return cls(PackedMatrix(format, pack(format, weight), weight.shape[1]), inputs)

    @property
    def dtype(self) -> torch.dtype:
        """To which the model around it was cast."""
        return self.packed.dtype

    @property
    def format(self) -> Format:
        """Of its table."""
        return self.packed.format

    def tensors(self) -> dict[str, Tensor]:
        """The packed rows, by the names of the format. Shape: (V, ...) of each."""
        return self.packed.tensors()

    @property
    def size(self) -> int:
        """Number of tokens, V."""
        return self.packed.rows

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.packed.width

    def lookup(self, tokens: Tensor) -> Tensor:
        """Shape: (T,) int64 -> (T, width)."""
        return self.packed.take(tokens).to(self.dtype)

    def row(self, ids: Tensor) -> Tensor:
        """Shape: any int64 -> (..., width)."""
        return self.packed.take(ids).to(self.dtype)

    def scores(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Shape: rows: (K, width), bias: (V,) -> (K, V)."""
        scores = self.packed.matmul(rows, self.inputs)
        return scores if bias is None else scores + bias.to(scores.dtype)

    def loss(
        self, rows: Tensor, labels: Tensor, bias: Tensor | None = None, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Shape: rows: (K, width), labels: (K,) int64 -> () fp32, () int64."""
        return linear_cross_entropy(rows, values_for(self, rows), bias, labels, smoothing=smoothing)

    def sampled_loss(
        self, rows: Tensor, labels: Tensor, uniform: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shape: uniform: (K,) fp64 in [0, 1) -> loss, correct, (K,) int64."""
        return sampled_cross_entropy(rows, values_for(self, rows), bias, labels, uniform)

    def values(self, dtype: torch.dtype) -> Tensor:
        """The values in a new tensor. Shape: (V, width)."""
        return self.packed.dense(dtype)

    def dense(self) -> Tensor:
        """The values in a new tensor. Shape: (V, width) fp32."""
        return self.packed.dense()

    def product(self, bias: Tensor | None = None) -> Product:
        """The format's own product. Shape: (K, width) -> (K, V)."""
        return self.packed.product(bias, None, self.inputs)

    def flops(self, rows: float) -> float:
        """A multiply-add is two."""
        return 2.0 * self.size * self.width * rows

    def reset_parameters(self, std: float) -> None:
        """Nothing is drawn: the table has values from the beginning."""


RoundedBrick = RoundedProjection | RoundedVocabulary


def rounded_bricks(model: nn.Module) -> Iterator[tuple[str, RoundedBrick]]:
    """The rounded bricks of a model by the places that they stand at, under a tuning method too, each once.

    A place is where a method that was put on it stands; a vocabulary's is the embedding's, where it serves one.
    """
    for path, module in model.named_modules():
        if isinstance(module, RoundedBrick):
            name = path
            while name.rpartition(".")[2] in _UNDER:
                name = name.rpartition(".")[0]
            yield name, module


def matrix_name(path: str) -> str:
    """What the matrix of a place is called where it is a parameter."""
    return f"{path}.weight" if path else "weight"


def rounded_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What the rounded bricks of a model hold, by the names that files have: the place, and the name in the format."""
    return {
        f"{path}.{key}": tensor
        for path, brick in rounded_bricks(model)
        for key, tensor in brick.packed.tensors().items()
    }


def count_rounded(model: nn.Module) -> int:
    """Numbers that the rounded matrices of a model stand for."""
    return sum(brick.packed.rows * brick.packed.width for _, brick in rounded_bricks(model))


def rounded_bytes(model: nn.Module) -> int:
    """Bytes that the rounded matrices of a model take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in rounded_tensors(model).values())


def formats_of(model: nn.Module) -> dict[str, int]:
    """How many matrices of a model have which format; empty for a plain model."""
    return dict(Counter(brick.packed.format.NAME for _, brick in rounded_bricks(model)))
