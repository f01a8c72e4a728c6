"""A decoder's step as a flat list of operations, which the kernels in C run for many rows in one call.

    a model --(models.native_step)--> Program --(native.executor)--> scores, or the best tokens, of R rows

A **row** is one token of one sequence. Its sequence is a *slot* of the cache and its position is the number of tokens
that the slot holds before it. Rows of a slot stand in order, and several slots stand side by side, so that one call
decodes a token for each of N texts, verifies k guessed tokens of one text, or reads a prompt.

A **buffer** holds `width` fp32 values for each row. Operations read and write columns of buffers. A row's result
never depends on the other rows of the call, nor on the number of threads: each sum has one order.

What an operation computes is written at its class, for one row; `x` stands for the values of a row in the columns
`source`. Everything is fp32 unless an operation says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Activation = Literal["none", "relu", "gelu", "gelu_tanh", "silu", "tanh", "quick_gelu", "relu_squared", "sigmoid"]
"""`gelu` is exact, by erf; `gelu_tanh` is GPT-2's `gelu_new`. Others have no kernel: the planner gives None."""

Format = Literal["fp32", "bf16", "int8", "q8_0", "q4_0"]

GROUP = 32
"""Values that share a scale: of the formats `q8_0` and `q4_0`, and of activations that are rounded to int8."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight in a format: W of y = W x.

    Attributes:
        tensors: as `nn.formats.<format>.pack` gives them, see below; of its first rows, where `further` has others.
        out_features, in_features: its shape.
        further: tensors of the rows that follow, apart until the kernels' copy is made: joined, they were a second one.

    Shape of `tensors`:
        fp32: values (out, in) fp32
        bf16: values (out, in) bf16
        int8: values (out, in) int8, scale (out,) fp32
        q8_0: blocks (out, in / 32 * 34) uint8: llama.cpp's, an fp16 scale and 32 int8
        q4_0: blocks (out, in / 32 * 18) uint8: llama.cpp's, an fp16 scale and 16 bytes of two values, less 8
    """

    format: Format
    tensors: Mapping[str, Tensor]
    out_features: int
    in_features: int
    further: tuple[Mapping[str, Tensor], ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for part in (self.tensors, *self.further) for tensor in part.values())

    def whole(self) -> Mapping[str, Tensor]:
        """The tensors of all rows; a copy where there are further ones."""
        if not self.further:
            return self.tensors
        parts = (self.tensors, *self.further)
        return {name: torch.cat([part[name] for part in parts]) for name in self.tensors}


@dataclass(frozen=True)
class Columns:
    """Some columns of a buffer.

    Attributes:
        buffer: its index among those of the program.
        start: first column.
        width: how many.
    """

    buffer: int
    start: int
    width: int


@dataclass(frozen=True, eq=False)
class Embed:
    """target = scale * W[token]: the row of the vocabulary, widened to fp32."""

    vocabulary: Matrix
    target: Columns
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class AddPosition:
    """target += table[position + offset]. Shape: table: (positions, width) fp32."""

    table: Tensor
    target: Columns
    offset: int = 0


@dataclass(frozen=True, eq=False)
class AddVector:
    """target += vector, the same for every row. Shape: vector: (width,) fp32."""

    vector: Tensor
    target: Columns


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """target = (x - mean) / sqrt(variance + eps) * weight + bias. Source and target may be the same columns.

    Shape:
        weight, bias: (width,) fp32, or None for ones and zeros
    """

    source: Columns
    target: Columns
    weight: Tensor | None
    bias: Tensor | None
    eps: float


@dataclass(frozen=True, eq=False)
class RmsNorm:
    """target = x / sqrt(mean of x^2 + eps) * weight, for each group of `group` columns: a head, or the whole width.

    Source and target may be the same columns.

    Shape:
        weight: (group,) fp32, or None for ones
    """

    source: Columns
    target: Columns
    weight: Tensor | None
    eps: float
    group: int


@dataclass(frozen=True, eq=False)
class Multiply:
    """target = activation(W x + bias), or target += W x + bias.

    Attributes:
        rounded: round x before the product. For `bf16` weights to bf16, with sums in fp32, as matmuls of a bf16 model
            do. For `int8`, `q8_0` and `q4_0` to int8 with one scale for each 32 values (their largest magnitude / 127,
            rounded half to even), with exact sums of a block. Without effect on `fp32`.
        seven_bits: they are rounded to magnitude / 63 instead; without effect on `bf16`.
        add: add to what the target holds; goes with no activation.

    Shape:
        bias: (out,) fp32, or None
    """

    matrix: Matrix
    bias: Tensor | None
    source: Columns
    target: Columns
    activation: Activation = "none"
    rounded: bool = True
    add: bool = False
    seven_bits: bool = False


@dataclass(frozen=True)
class Gate:
    """target = activation(gate) * value. All three have one width; the target may be one of the others."""

    gate: Columns
    value: Columns
    target: Columns
    activation: Activation


@dataclass(frozen=True)
class Activate:
    """target = activation(x), where no product is before it. Source and target may be the same columns."""

    source: Columns
    target: Columns
    activation: Activation


@dataclass(frozen=True)
class Add:
    """target += x."""

    source: Columns
    target: Columns


@dataclass(frozen=True)
class Copy:
    """target = factor * x: a residual stream is kept, or scaled. Source and target may be the same columns."""

    source: Columns
    target: Columns
    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class Rotation:
    """Angles of a position: position * frequencies; cosine and sine are multiplied by `amplitude`.

    Shape:
        frequencies: (rotated width / 2,) fp32
    """

    frequencies: Tensor
    amplitude: float = 1.0


@dataclass(frozen=True)
class Rotate:
    """Rotates the first `2 * len(frequencies)` values of each head, in place; the others stay.

    (a, b) becomes (a cos - b sin, b cos + a sin), where a pair is value n and value n + half of the rotated part, or
    with `interleaved` the values 2n and 2n + 1.

    Attributes:
        target: queries or keys, heads side by side.
        head_width: columns of a head.
        rotation: index among those of the program.
        offset: added to the position.
    """

    target: Columns
    head_width: int
    rotation: int
    interleaved: bool = False
    offset: int = 0


@dataclass(frozen=True, eq=False)
class Attend:
    """Appends keys and values of all rows to the layer's cache, then lets each row attend to its slot's.

    A row sees the keys at positions p - before .. p, itself included: target = softmax(scale * q k + bias) v, for each
    head. Head h of the queries reads head h // (heads / key_heads) of the keys.

    Attributes:
        query, key, value, target: heads side by side; the target may be the query.
        layer: of the cache.
        before: keys that are seen before the row's own; None for all.
        bias: added to the score of a key at distance d = p - p' for head h: bias[h, min(d, distances - 1)]; a planner
            renders T5's buckets so. None for nothing.

    Shape:
        bias: (heads, distances) fp32
    """

    query: Columns
    key: Columns
    value: Columns
    target: Columns
    layer: int
    heads: int
    key_heads: int
    head_width: int
    scale: float
    before: int | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class CrossAttend:
    """Lets each row attend to all keys of its slot in the second cache, which holds those of an encoder's output.

    Attributes:
        query, target: as of `Attend`.
        layer: of the second cache.
    """

    query: Columns
    target: Columns
    layer: int
    heads: int
    key_heads: int
    head_width: int
    scale: float


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of all tokens, W x + bias, of those rows that the caller wants; always the last operation.

    Attributes:
        rounded, seven_bits: as of `Multiply`.

    Shape:
        bias: (V,) fp32, or None
    """

    matrix: Matrix
    bias: Tensor | None
    source: Columns
    rounded: bool = True
    seven_bits: bool = False


Operation = (
    Embed | AddPosition | AddVector | LayerNorm | RmsNorm | Multiply | Gate | Activate | Add | Copy | Rotate | Attend
    | CrossAttend | Scores
)  # fmt: skip


@dataclass(frozen=True)
class CacheShape:
    """What a cache holds for each token: `layers` times keys and values of `key_heads` heads of `head_width`."""

    layers: int
    key_heads: int
    head_width: int


@dataclass(frozen=True, eq=False)
class Program:
    """A step of a model.

    Attributes:
        widths: of the buffers, in values a row.
        operations: in the order in which they run.
        cache: what `Attend` needs.
        cross: what `CrossAttend` needs; None where there is no encoder.
        rotations: that `Rotate` names by index; their cosines and sines are computed once a call.
        max_length: positions that the model has; None for no limit.
    """

    widths: tuple[int, ...]
    operations: tuple[Operation, ...]
    cache: CacheShape
    cross: CacheShape | None = None
    rotations: tuple[Rotation, ...] = field(default=())
    max_length: int | None = None


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a call of a program gives for the M rows that were wanted, in the order of the call.

    Attributes:
        ids: the best tokens, by falling score and then by rising id; -1 where a score of the row is not finite.
            Shape: (M, k) int64
        values: their scores. Shape: (M, k) fp32
        log_sum: the logarithm of the sum of exp(score) over the vocabulary; score - log_sum is a log probability.
            Shape: (M,) fp32
        scores: of all tokens. Shape: (M, V) fp32
        hidden: what `Scores` read. Shape: (M, width) fp32
    """

    ids: Tensor
    values: Tensor
    log_sum: Tensor
    scores: Tensor
    hidden: Tensor
