"""What single bricks are in a program for the kernels in C: their matrices, biases, activations and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeGuard, cast

import torch
from torch import Tensor, nn

from pretune.native import program as step
from pretune.nn.activation import Activation
from pretune.nn.embedding import Learned, Sinusoidal
from pretune.nn.formats.kernels import ACTIVATIONS
from pretune.nn.projection import ProjectionBrick, multiplies_by_dense
from pretune.nn.relative import RelativeBias
from pretune.nn.structure import Causal, SlidingWindow, Structure
from pretune.nn.tuned import TunedBrick, TunedProjection
from pretune.nn.vocabulary import Vocabulary, VocabularyBrick

_DENSE: Mapping[torch.dtype, step.Format] = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_PACKED: Mapping[str, step.Format] = {"bf16": "bf16", "int8": "int8", "q8_0": "q8_0", "q4_0": "q4_0"}
_MAX_DISTANCE = 1 << 14  # of a table of relative positions

Rounding = Literal["exact", "rounded", "seven bits"]
"""How a product reads its rows."""
Part = tuple[step.Matrix, Tensor | None, Rounding]
"""A matrix, its bias, and whether what it reads is rounded."""


class Packed(Protocol):
    """A matrix in a format, as `nn.rounded.PackedMatrix`."""

    name: str
    rows: int
    width: int

    def tensors(self) -> dict[str, Tensor]:
        """The packed rows, by the names of the format. Shape: (rows, ...) of each."""


class PackedBrick(Protocol):
    """What multiplies by a packed matrix, as `nn.rounded.RoundedProjection` does.

    Attributes:
        inputs: "exact", or "int8" or "int7" where what it reads is rounded.
    """

    packed: Packed
    inputs: str


class UnplannedError(Exception):
    """A model, or a part of it, has no native step; the message says which and why."""


def is_packed(brick: object) -> TypeGuard[PackedBrick]:
    """Whether a brick multiplies by a packed matrix, as it says itself, and not one that stands on such a brick."""
    return bool(getattr(brick, "is_packed", False)) and hasattr(brick, "packed")


def as_float(tensor: Tensor) -> Tensor:
    """Shape: any -> same, fp32, contiguous."""
    return tensor.detach().float().contiguous()


def optional(tensor: Tensor | None) -> Tensor | None:
    """As `as_float`, of what may not be there."""
    return None if tensor is None else as_float(tensor)


def activation_name(activation: Activation) -> step.Activation:
    """What kernels call an activation.

    Raises:
        UnplannedError: they do not compute it.
    """
    if activation not in ACTIVATIONS:
        raise UnplannedError(f"no kernel for the activation {getattr(activation, '__name__', activation)}")
    return ACTIVATIONS[activation]


def dense_matrix(weight: Tensor) -> step.Matrix:
    """A weight as it is.

    Shape:
        weight: (out, in)

    Raises:
        UnplannedError: a dtype without kernels.
    """
    if weight.dtype not in _DENSE:
        raise UnplannedError(f"no kernel for weights in {weight.dtype}")
    return step.Matrix(_DENSE[weight.dtype], {"values": weight.detach().contiguous()}, *weight.shape)


def projection_matrix(brick: ProjectionBrick) -> step.Matrix:
    """The matrix of what stands at a projection's place: packed, or dense with any linear change merged into it.

    Raises:
        UnplannedError: it computes otherwise.
    """
    if is_packed(brick):
        return _packed_matrix(brick)
    tuned = isinstance(brick, TunedProjection)
    if tuned and is_packed(innermost(brick)):
        raise UnplannedError("a change of a packed matrix stays beside it")
    if not tuned and not multiplies_by_dense(brick):
        raise UnplannedError(f"no kernel for the projection {type(brick).__name__}")
    try:
        return dense_matrix(brick.dense()[0])
    except NotImplementedError as error:
        raise UnplannedError(str(error)) from None


def vocabulary_matrix(brick: VocabularyBrick) -> step.Matrix:
    """The vectors of a vocabulary.

    Raises:
        UnplannedError: it computes otherwise.
    """
    if is_packed(brick):
        return _packed_matrix(brick)
    if type(brick) is not Vocabulary:
        raise UnplannedError(f"no kernel for the vocabulary {type(brick).__name__}")
    return dense_matrix(brick.dense())


def bias_of(brick: ProjectionBrick) -> Tensor | None:
    """The bias of what stands at a projection's place. Shape: (out,)."""
    if is_packed(brick):
        return cast(Tensor | None, getattr(brick, "bias", None))
    return brick.dense()[1]


def rounding(brick: object) -> Rounding:
    """How what it multiplies is rounded: to bf16 by bf16 weights, to whole numbers where a packed brick says so."""
    if not is_packed(brick):
        return "rounded"
    return "exact" if brick.inputs == "exact" else "seven bits" if brick.inputs == "int7" else "rounded"


def innermost(brick: object) -> object:
    """What all changes at a place stand on."""
    while isinstance(brick, TunedBrick):
        brick = brick.base
    return brick


def joined(parts: Sequence[Part]) -> Part:
    """One matrix of several in one format, which read the same columns. Shape: (sum of outs, in)."""
    first, _, rounded = parts[0]
    if len(parts) == 1:
        return parts[0]
    rows = [matrix.out_features for matrix, _, _ in parts]
    biases = [bias for _, bias, _ in parts]
    bias = None
    if any(each is not None for each in biases):
        bias = torch.cat([torch.zeros(n) if each is None else each for each, n in zip(biases, rows, strict=True)])
    further = tuple(matrix.tensors for matrix, _, _ in parts[1:])
    return step.Matrix(first.format, first.tensors, sum(rows), first.in_features, further), bias, rounded


def keys_before(structure: Structure) -> int | None:
    """How many keys before its own a row sees; None for all.

    Raises:
        UnplannedError: it sees others.
    """
    if type(structure) is Causal:
        return None
    if type(structure) is SlidingWindow and structure.after == 0:
        return structure.before
    raise UnplannedError(f"no kernel for attention in {structure}")


def distances(relative: nn.Module | None) -> Tensor | None:
    """What is added to the scores of keys at each distance; those farther away have the last. Shape: (heads, D)."""
    if relative is None:
        return None
    if type(relative) is not RelativeBias or relative.max_distance > _MAX_DISTANCE:
        raise UnplannedError("no kernel for the relative positions of this attention")
    buckets = relative.bucket(-torch.arange(relative.max_distance + 1))
    return as_float(relative.table(buckets).T)


def position_operation(position: nn.Module, target: step.Columns) -> step.AddPosition:
    """Adds the vector of a row's position.

    Raises:
        UnplannedError: positions without a table.
    """
    if type(position) is Learned:
        return step.AddPosition(as_float(position.weight), target, position.offset)
    if type(position) is Sinusoidal and position.max_length is not None:
        return step.AddPosition(as_float(position(torch.arange(position.max_length))), target)
    raise UnplannedError(f"no kernel for the positions {type(position).__name__}")


def epsilon(norm: nn.RMSNorm) -> float:
    """What keeps a norm from dividing by 0: torch's own where it names none."""
    return torch.finfo(torch.float32).eps if norm.eps is None else norm.eps


def _packed_matrix(brick: PackedBrick) -> step.Matrix:
    """A packed matrix, in the names of the kernels."""
    packed = brick.packed
    if packed.name not in _PACKED:
        raise UnplannedError(f"no kernel for weights in the format {packed.name}")
    if packed.name == "bf16" and brick.inputs != "exact":
        raise UnplannedError(f"no kernel for bf16 weights and rows in {brick.inputs}")
    return step.Matrix(_PACKED[packed.name], packed.tensors(), packed.rows, packed.width)
