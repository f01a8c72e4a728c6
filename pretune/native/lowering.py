"""Turns the operations of a program into the structs of C, and packs their weights."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pretune.native import structs
from pretune.native.memory import Arena
from pretune.native.packed import PackedMatrix, packed_bytes, padded
from pretune.native.program import (
    Activate,
    Activation,
    Add,
    AddPosition,
    AddVector,
    Attend,
    CacheShape,
    Columns,
    Copy,
    CrossAttend,
    Embed,
    Gate,
    LayerNorm,
    Matrix,
    Multiply,
    Operation,
    Program,
    RmsNorm,
    Rotate,
    Scores,
)


@dataclass
class Lowering:
    """Lowers operations.

    Args:
        program: that they are of; what does not fit it raises ValueError, as C checks nothing.

    Attributes:
        kept: what the structs point into.
    """

    program: Program
    kept: list[object] = field(default_factory=list)
    _packed: dict[tuple[int, int, int, str], PackedMatrix] = field(init=False)

    def __post_init__(self) -> None:
        """Packs all weights: a vocabulary that is read twice, the second time without its last rows perhaps, once."""
        whole = _matrices(self.program)
        arena = Arena([packed_bytes(matrix) for matrix in whole.values()])
        self._packed = {key: PackedMatrix(matrix, arena) for key, matrix in whole.items()}

    def lower(self, operation: Operation) -> structs.Op:
        """The struct of an operation."""
        op = structs.Op(code=structs.OPERATIONS.index(type(operation).__name__))
        match operation:
            case Multiply() | Scores():
                self._product(op, operation)
            case Attend() | CrossAttend():
                self._attention(op, operation)
            case Embed() | AddPosition() | AddVector():
                self._input(op, operation)
            case LayerNorm() | RmsNorm():
                self._norm(op, operation)
            case Rotate():
                self._rotate(op, operation)
            case Gate():
                self._columns(op, operation.target.width, operation.target, operation.gate, operation.value)
                op.activation = _activation(operation.activation)
            case Activate():
                self._columns(op, operation.target.width, operation.target, operation.source)
                op.activation = _activation(operation.activation)
            case Add():
                self._columns(op, operation.target.width, operation.target, operation.source)
            case Copy():
                self._columns(op, operation.target.width, operation.target, operation.source)
                op.f[0] = operation.factor
        return op

    def _product(self, op: structs.Op, operation: Multiply | Scores) -> None:
        matrix = operation.matrix
        self._matrix(op, matrix)
        op.flags = structs.rounding_flags(operation.rounded, operation.seven_bits)
        op.p[0] = self._fp32_pointer(operation.bias, matrix.out_features, to_panels=True)
        if isinstance(operation, Scores):
            self._columns(op, matrix.in_features, Columns(operation.source.buffer, 0, matrix.in_features))
            self._set_columns(op, 1, operation.source, matrix.in_features)
            return
        self._set_columns(op, 0, operation.target, matrix.out_features)
        self._set_columns(op, 1, operation.source, matrix.in_features)
        source, target = operation.source, operation.target
        apart = source.start + source.width <= target.start or target.start + target.width <= source.start
        if source.buffer == target.buffer and not apart:
            raise ValueError("a product cannot write over what it reads")
        if operation.add and operation.activation != "none":
            raise ValueError("a product with an activation cannot add")
        op.activation = _activation(operation.activation)
        op.flags |= structs.ACCUMULATE if operation.add else 0

    def _attention(self, op: structs.Op, operation: Attend | CrossAttend) -> None:
        shape = self.program.cache if isinstance(operation, Attend) else self.program.cross
        own = CacheShape(operation.layer + 1, operation.key_heads, operation.head_width)
        if (
            shape is None
            or shape.layers < own.layers
            or (shape.key_heads, shape.head_width)
            != (
                own.key_heads,
                own.head_width,
            )
        ):
            raise ValueError(f"attention of {own} does not fit the program's cache, {shape}")
        if operation.heads % operation.key_heads:
            raise ValueError(f"{operation.heads} heads are no multiple of {operation.key_heads} heads of keys")
        width = operation.heads * operation.head_width
        op.layer, op.f[0] = operation.layer, operation.scale
        op.n[0], op.n[1], op.n[2] = operation.heads, -1, 0
        self._set_columns(op, 0, operation.target, width)
        self._set_columns(op, 1, operation.query, width)
        if isinstance(operation, Attend):
            self._set_columns(op, 2, operation.key, operation.key_heads * operation.head_width)
            self._set_columns(op, 3, operation.value, operation.key_heads * operation.head_width)
            if operation.before is not None:
                op.n[1] = operation.before
            if operation.bias is not None:
                op.n[2] = operation.bias.shape[1]
                op.p[0] = self._fp32_pointer(operation.bias, operation.heads * operation.bias.shape[1])

    def _input(self, op: structs.Op, operation: Embed | AddPosition | AddVector) -> None:
        width = operation.target.width
        self._columns(op, width, operation.target)
        match operation:
            case Embed():
                self._matrix(op, operation.vocabulary)
                op.f[0] = operation.scale
                if operation.vocabulary.in_features != width:
                    raise ValueError(f"vectors of {operation.vocabulary.in_features} values, {width} columns")
            case AddPosition():
                op.p[0] = self._fp32_pointer(operation.table, len(operation.table) * width)
                op.n[1] = operation.offset
                if self.program.max_length is None or self.program.max_length + operation.offset > len(operation.table):
                    raise ValueError(f"a table of {len(operation.table)} positions needs a max_length within it")
            case AddVector():
                op.p[0] = self._fp32_pointer(operation.vector, width)

    def _norm(self, op: structs.Op, operation: LayerNorm | RmsNorm) -> None:
        width = operation.target.width
        self._columns(op, width, operation.target, operation.source)
        op.f[0] = operation.eps
        if isinstance(operation, LayerNorm):
            op.p[0], op.p[1] = self._fp32_pointer(operation.weight, width), self._fp32_pointer(operation.bias, width)
            return
        if width % operation.group:
            raise ValueError(f"{width} columns are no multiple of groups of {operation.group}")
        op.n[1] = operation.group
        op.p[0] = self._fp32_pointer(operation.weight, operation.group)

    def _rotate(self, op: structs.Op, operation: Rotate) -> None:
        width, head = operation.target.width, operation.head_width
        half = len(self.program.rotations[operation.rotation].frequencies)
        if width % head or 2 * half > head or half > structs.MAX_HALF:
            raise ValueError(f"cannot rotate {2 * half} values of each {head} of {width} columns")
        self._columns(op, width, operation.target)
        op.n[1], op.n[2], op.n[3] = head, operation.rotation, operation.offset
        op.flags = structs.INTERLEAVED if operation.interleaved else 0

    def _columns(self, op: structs.Op, width: int, *operands: Columns) -> None:
        """Places operands of one width."""
        op.n[0] = width
        for n, columns in enumerate(operands):
            self._set_columns(op, n, columns, width)

    def _set_columns(self, op: structs.Op, n: int, columns: Columns, width: int) -> None:
        widths = self.program.widths
        inside = 0 <= columns.buffer < len(widths) and 0 <= columns.start <= widths[columns.buffer] - columns.width
        if not inside or columns.width != width:
            raise ValueError(f"{columns} are no {width} columns of the program's buffers, {widths}")
        op.buffer[n], op.start[n] = columns.buffer, columns.start

    def _fp32_pointer(self, tensor: Tensor | None, count: int, *, to_panels: bool = False) -> int | None:
        """The address of fp32 numbers, which are kept."""
        if tensor is None:
            return None
        if tensor.numel() != count:
            raise ValueError(f"{tuple(tensor.shape)} numbers where {count} are needed")
        own = padded(tensor) if to_panels else tensor.detach().to("cpu", torch.float32).contiguous()
        self.kept.append(own)
        return own.data_ptr()

    def _matrix(self, op: structs.Op, matrix: Matrix) -> None:
        packed = self._packed[_storage_key(matrix)]
        struct = packed.rows(matrix.out_features)
        self.kept += [packed, struct]
        op.matrix = ctypes.pointer(struct)


def _matrices(program: Program) -> dict[tuple[int, int, int, str], Matrix]:
    """The weights of a program, those that begin alike once."""
    matrices = [
        operation.vocabulary if isinstance(operation, Embed) else operation.matrix
        for operation in program.operations
        if isinstance(operation, Embed | Multiply | Scores)
    ]
    return {_storage_key(matrix): matrix for matrix in sorted(matrices, key=lambda matrix: matrix.out_features)}


def program_bytes(program: Program) -> int:
    """Bytes that the weights of a program take in the kernels' layout, at the least: as many as their tensors."""
    return sum(matrix.nbytes for matrix in _matrices(program).values())


def _storage_key(matrix: Matrix) -> tuple[int, int, int, str]:
    """What is the same for matrices that are the first rows of one."""
    pointer = next(iter(matrix.tensors.values())).data_ptr()
    return pointer, len(matrix.further), matrix.in_features, matrix.format


def _activation(name: Activation) -> int:
    return structs.ACTIVATIONS.index(name)
