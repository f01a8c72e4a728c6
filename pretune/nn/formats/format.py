"""What a format of weights says of itself, and what is asked of any of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from pretune.find import find_defining
from pretune.nn.activation import Activation
from pretune.nn.packed import Product

Packed = Mapping[str, Tensor]
"""The tensors of a matrix in a format, by name. The first dimension of each is the rows of the matrix."""
Dense = Callable[[Packed], Tensor]
"""The values that packed rows stand for. Shape: (out, ...) of each -> (out, in) fp32."""
InputRounding = Literal["exact", "int8", "int7"]
"""Whether a matmul reads its input as it is, or rounded to 8 or 7 bits in groups of 32 with a scale each."""
INPUT_LEVELS: Mapping[InputRounding, int] = {"int8": 127, "int7": 63}
"""The largest whole number of a group, by what rounds it."""
ROWS = 1024
"""Rows of a matrix that are dequantised at once, where no whole copy is wanted."""
_OUTLIER = 100.0  # root mean squares of a matrix; the largest of trained models of the field have about 50


class Format(Protocol):
    """What a file of `nn/formats/` offers, or a user's own.

    Attributes:
        NAME: as in recipes and files.
        BITS: of a weight, with its part of the scales, in a wide matrix.
        GROUP: weights that share a scale and must divide the width; 1 for any width.

    An optional function `problem(weight)` says what keeps a finite matrix of a good width from being packed, or None.
    """

    NAME: str
    BITS: float
    GROUP: int

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """Rounds a matrix to the nearest values of the format. Shape: (out, in) fp32 -> (out, ...) of each."""

    def dense(self, tensors: Packed) -> Tensor:
        """The values that packed rows stand for. Shape: (out, ...) of each -> (out, in) fp32."""

    def product(
        self,
        tensors: Packed,
        bias: Tensor | None,
        activation: Activation | None = None,
        inputs: InputRounding = "exact",
    ) -> Product:
        """A function for a model in use that multiplies by packed rows. Shape: (T, in) -> (T, out)."""


def find_format(name: str) -> Format:
    """Returns the format of this name, or that of a user's own file by its path.

    Raises:
        UsageError: no such format, or a file that lacks what a format must define.
        MissingInputError: no such file.
    """
    needed = ("NAME", "BITS", "GROUP", "pack", "dense", "product")
    return cast(Format, find_defining("formats", name, needed, f"formats: {name!r}", root="pretune.nn"))


def vocabulary_format(name: str) -> str:
    """The format of a vocabulary beside layers in this one: `VOCABULARY` of its file, where so few bits cost much."""
    return cast(str, getattr(find_format(name), "VOCABULARY", name))


def format_name(format: Format) -> str:
    """The name by which `find_format` finds it: its file's path for a user's own."""
    module = getattr(format, "__name__", "")
    own = f"{__package__}.{format.NAME}"
    return format.NAME if module == own else str(Path(str(getattr(format, "__file__", format.NAME))).resolve())


def problem(format: Format, weight: Tensor) -> str | None:
    """What keeps a matrix from being packed, with a remedy; None for nothing. Shape: (out, in)."""
    width = weight.shape[1]
    if width % format.GROUP:
        return (
            f"its width {width} is no multiple of the {format.GROUP} weights that share a scale in {format.NAME}; use "
            "int8 there, or keep it as it is"
        )
    if weight.is_meta:
        return None
    if not weight.isfinite().all():
        row, column = (~weight.isfinite()).nonzero()[0].tolist()
        return f"it holds {weight[row, column].item()} at row {row}, column {column}; train or copy the model again"
    own = cast(Callable[[Tensor], str | None] | None, getattr(format, "problem", None))
    return None if own is None else own(weight)


def outlier(weight: Tensor) -> str | None:
    """Says where a matrix has a value so large that others near it lose their digits; None for no such value.

    Shape:
        weight: (out, in)
    """
    weight = weight.detach()
    largest, rms = weight.abs().max(), weight.square().mean().sqrt()
    if not largest > _OUTLIER * rms:
        return None
    row, column = divmod(int(weight.abs().argmax()), weight.shape[1])
    return f"{weight[row, column].item():.4g} at row {row}, column {column} is {float(largest / rms):.0f} times the rms"


def pack(format: Format, weight: Tensor) -> dict[str, Tensor]:
    """Packs a matrix some rows at a time, so that few fp32 values beside it are in memory. Shape: (out, in)."""
    parts = [format.pack(rows.detach().float()) for rows in torch.split(weight, ROWS)]
    return {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}


def empty(format: Format, rows: int, width: int) -> dict[str, Tensor]:
    """Tensors of the shapes and dtypes of a packed matrix, without memory."""
    one = format.pack(torch.zeros(1, width, device="cpu"))
    return {name: torch.empty(rows, *t.shape[1:], dtype=t.dtype, device="meta") for name, t in one.items()}


def is_finite(format: Format, tensors: Packed) -> bool:
    """Whether packed rows stand for finite values; formats with levels have but to look at their scales."""
    scales = cast(Callable[[Packed], Tensor] | None, getattr(format, "stored_scales", None))
    if scales is not None:
        return bool(scales(tensors).isfinite().all())
    return all(bool(values.isfinite().all()) for _, values in dense_blocks(format, tensors))


def take(tensors: Packed, rows: Tensor | slice) -> dict[str, Tensor]:
    """Some rows of a packed matrix, still packed. Shape: rows: (K,) int64, or a slice."""
    return {name: tensor[rows] for name, tensor in tensors.items()}


def join(parts: Sequence[Packed]) -> dict[str, Tensor]:
    """The rows of several packed matrices of one width, one after another."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def count_rows(tensors: Packed) -> int:
    """Rows of a packed matrix."""
    return len(next(iter(tensors.values())))


def dense_blocks(format: Format, tensors: Packed, rows: int = ROWS) -> Iterator[tuple[slice, Tensor]]:
    """The values of packed rows, some rows at a time, with where they stand. Shape: (rows or fewer, in) fp32."""
    for first in range(0, count_rows(tensors), rows):
        part = slice(first, first + rows)
        yield part, format.dense(take(tensors, part))
