"""Renders a model's bricks as ONNX nodes on the padded view (batch, length) with a mask, which exists only there.

    input_ids, attention_mask --> positions, visible keys --> embedding --> blocks --> heads
                                        past_key_values <-- keys, values --> present

Padding may stand on either side: positions count the tokens that the mask has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from pretune.interop.onnx_graph import Graph
from pretune.models.model import LanguageModel
from pretune.nn.activation import ACTIVATIONS, Activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block, ParallelBlock
from pretune.nn.embedding import Embedding, Learned
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.projection import ProjectionBrick
from pretune.nn.relative import RelativeBias
from pretune.nn.rotary import PartialRotary, Rotary
from pretune.nn.structure import CAUSAL, SlidingWindow, Structure

HIDDEN = -1e30  # what is added to scores of keys that are not seen; finite, so that a row of padding gives no NaN
_ONE = ("relu", "sigmoid", "tanh")
KNOWN_ACTIVATIONS = ("gelu", "gelu_new", "silu", "quick_gelu", "relu2", "linear", *_ONE)


@dataclass
class Padded:
    """Holds what bricks read of a batch.

    Attributes:
        graph: that is built.
        tokens, mask, segments: names of inputs; the mask is of all keys, past ones too.
        positions: (B, L), of the tokens.
        key_places, query_places: (T,) and (L,), columns of the padded batch.
        past: keys and values of each layer that came before, by the layer.
        present: keys and values of each layer, by the layer.
    """

    graph: Graph
    tokens: str
    mask: str
    segments: str | None
    positions: str = ""
    key_places: str = ""
    query_places: str = ""
    past: list[tuple[str, str]] = field(default_factory=list)
    present: list[tuple[str, str]] = field(default_factory=list)
    _masks: dict[Structure, str] = field(default_factory=dict)
    _angles: dict[object, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        g = self.graph
        length = g.op("Shape", self.tokens, start=1, end=2)  # (1,)
        total = g.op("Shape", self.mask, start=1, end=2)
        counted = g.op("Sub", g.op("CumSum", self.mask, g.constant(1)), g.constant(1))
        counted = g.op("Max", counted, g.constant(0))
        self.positions = self._last(counted, length, 1)
        zero, one = g.constant(0), g.constant(1)
        self.key_places = g.op("Range", zero, g.op("Squeeze", total), one)
        self.query_places = self._last(self.key_places, length, 0)

    def _last(self, values: str, length: str, axis: int) -> str:
        """The last values along an axis, as many as there are tokens."""
        g = self.graph
        return g.op("Slice", values, g.op("Neg", length), g.constant([np.iinfo(np.int64).max]), g.constant([axis]))

    def hidden_keys(self, structure: Structure) -> str:
        """What is added to scores: 0 for keys that are seen. Shape: (B, 1, L or 1, T)."""
        if structure not in self._masks:
            g = self.graph
            seen = g.op("Cast", g.op("Unsqueeze", self.mask, g.constant([1, 2])), to=9)  # (B, 1, 1, T) bool
            if structure == CAUSAL or isinstance(structure, SlidingWindow):
                ahead = g.op("Sub", self.key_places, g.op("Unsqueeze", self.query_places, g.constant([1])))  # (L, T)
                after = structure.after if isinstance(structure, SlidingWindow) else 0
                seen = g.op("And", seen, g.op("LessOrEqual", ahead, g.constant(after)))
                if isinstance(structure, SlidingWindow):
                    seen = g.op("And", seen, g.op("GreaterOrEqual", ahead, g.constant(-structure.before)))
            self._masks[structure] = g.op("Where", seen, g.number(0.0), g.number(HIDDEN))
        return self._masks[structure]

    def angles(self, rotary: Rotary) -> tuple[str, str]:
        """Cosine and sine of each position's angles. Shape: (B, 1, L, width / 2) each."""
        key = (rotary.width, rotary.theta, rotary.scaling)
        if key not in self._angles:
            g = self.graph
            exponent = torch.arange(0, rotary.width, 2) / rotary.width
            frequency = rotary.scaling.apply(1.0 / rotary.theta**exponent, rotary.theta)
            position = g.op("Unsqueeze", g.op("Cast", self.positions, to=1), g.constant([1, 3]))
            angle = g.op("Mul", position, g.constant(frequency.numpy(), np.float32))
            amplitude = g.number(rotary.scaling.amplitude)
            cosine, sine = (g.op("Mul", g.op(name, angle), amplitude) for name in ("Cos", "Sin"))
            self._angles[key] = (cosine, sine)
        return self._angles[key]


def refuse_bricks(model: LanguageModel) -> str | None:
    """Says which brick has no nodes here; None where all have."""
    for number, block in enumerate(model.stack.blocks):
        name = type(block).__name__
        if type(block) not in (Block, ParallelBlock) or not isinstance(cast(Block, block).attention, Attention):
            return f"layer {number} is a {name} with attention of its own, which is not written as ONNX; use pretune"
        block = cast(Block, block)
        function = cast(FeedForward, block.feedforward).activation
        if activation_of(function) is None:
            return (
                f"layer {number} has an activation that is not written as ONNX; known: {', '.join(KNOWN_ACTIVATIONS)}"
            )
        structure = block.attention.structure
        if not (structure.any_queries or structure == CAUSAL or isinstance(structure, SlidingWindow)):
            return f"layer {number} sees {structure}, which is not written as ONNX; use pretune"
    return None


def activation_of(function: Activation) -> str | None:
    """The name of an activation that has nodes here; None for others."""
    return next((name for name in KNOWN_ACTIVATIONS if ACTIVATIONS[name] is function), None)


def activate(g: Graph, x: str, function: Activation) -> str:
    """An activation. Shape: any -> same."""
    name = activation_of(function)
    if name == "gelu":
        error = g.op("Erf", g.op("Div", x, g.number(math.sqrt(2.0))))
        return g.op("Mul", g.op("Mul", x, g.op("Add", error, g.number(1.0))), g.number(0.5))
    if name == "gelu_new":
        cube = g.op("Mul", g.op("Mul", x, g.op("Mul", x, x)), g.number(0.044715))
        inner = g.op("Tanh", g.op("Mul", g.op("Add", x, cube), g.number(math.sqrt(2 / math.pi))))
        return g.op("Mul", g.op("Mul", x, g.op("Add", inner, g.number(1.0))), g.number(0.5))
    if name == "silu":
        return g.op("Mul", x, g.op("Sigmoid", x))
    if name == "quick_gelu":
        return g.op("Mul", x, g.op("Sigmoid", g.op("Mul", x, g.number(1.702))))
    if name == "relu2":
        positive = g.op("Relu", x)
        return g.op("Mul", positive, positive)
    return x if name == "linear" else g.op(str(name).capitalize(), x)


def norm(g: Graph, x: str, module: nn.Module, hint: str) -> str:
    """A norm over the last dimension. Shape: any -> same."""
    if isinstance(module, nn.LayerNorm):
        bias = [] if module.bias is None else [g.tensor(module.bias, f"{hint}.bias")]
        return g.op("LayerNormalization", x, g.tensor(module.weight, hint), *bias, axis=-1, epsilon=module.eps)
    if isinstance(module, nn.RMSNorm):
        mean = g.op("ReduceMean", g.op("Mul", x, x), axes=[-1], keepdims=1)
        root = g.op("Sqrt", g.op("Add", mean, g.number(float(module.eps or torch.finfo(torch.float32).eps))))
        return g.op("Mul", g.op("Div", x, root), g.tensor(module.weight, hint))
    return x


def embed(view: Padded, embedding: Embedding) -> str:
    """The embedding. Shape: (B, L) -> (B, L, width)."""
    g = view.graph
    x = g.lookup(view.tokens, embedding.word, "embedding.word")
    if embedding.scale != 1.0:
        x = g.op("Mul", x, g.number(embedding.scale))
    position = embedding.position
    if isinstance(position, Learned):
        places = view.positions
        places = g.op("Add", places, g.constant(position.offset)) if position.offset else places
        x = g.op("Add", x, g.op("Gather", g.tensor(position.weight, "embedding.position"), places))
    elif position is not None and position.max_length is not None:
        table = position(torch.arange(position.max_length))
        x = g.op("Add", x, g.op("Gather", g.tensor(table, "embedding.position"), view.positions))
    if embedding.segment is not None:
        segments = view.segments or g.op("Sub", view.tokens, view.tokens)
        x = g.op("Add", x, g.op("Gather", g.tensor(embedding.segment.weight, "embedding.segment"), segments))
    x = norm(g, x, embedding.norm, "embedding.norm")
    return (
        x if embedding.project is None else g.linear(x, cast(ProjectionBrick, embedding.project), "embedding.project")
    )


def run_stack(view: Padded, model: LanguageModel, x: str) -> str:
    """All blocks and the last norm. Shape: (B, L, width) -> same."""
    for layer, number in enumerate(model.stack.order):
        x = _block(view, cast(Block, model.stack.blocks[number]), x, layer, f"stack.blocks.{number}")
    return norm(view.graph, x, model.stack.norm, "stack.norm")


def _block(view: Padded, block: Block, x: str, layer: int, hint: str) -> str:
    g, norms = view.graph, block.norms
    mixed = _attention(view, block.attention, norm(g, x, norms.before_attention, f"{hint}.norm1"), layer, hint)
    if isinstance(block, ParallelBlock):
        read = norm(g, x, norms.before_feedforward, f"{hint}.norm2")
        return g.op("Add", g.op("Add", x, mixed), _feedforward(g, block.feedforward, read, hint))
    x = norm(g, g.op("Add", x, mixed), norms.after_attention, f"{hint}.norm1")
    read = norm(g, x, norms.before_feedforward, f"{hint}.norm2")
    return norm(
        g, g.op("Add", x, _feedforward(g, block.feedforward, read, hint)), norms.after_feedforward, f"{hint}.norm3"
    )


def _feedforward(g: Graph, brick: nn.Module, x: str, hint: str) -> str:
    if isinstance(brick, GatedFeedForward):
        gate = activate(g, g.linear(x, brick.gate, f"{hint}.gate"), brick.activation)
        inner = g.op("Mul", gate, g.linear(x, brick.value, f"{hint}.value"))
        return g.linear(inner, brick.down, f"{hint}.down")
    brick = cast(FeedForward, brick)
    return g.linear(activate(g, g.linear(x, brick.up, f"{hint}.up"), brick.activation), brick.down, f"{hint}.down")


def _attention(view: Padded, brick: Attention, x: str, layer: int, hint: str) -> str:
    g, heads, key_heads, width = view.graph, brick.heads, brick.key_heads, brick.head_width
    query = _heads(g, g.linear(x, brick.query, f"{hint}.query"), heads, width)
    key = _heads(g, g.linear(x, brick.key, f"{hint}.key"), key_heads, width)
    value = _heads(g, g.linear(x, brick.value, f"{hint}.value"), key_heads, width)
    if brick.query_norm is not None and brick.key_norm is not None:
        query, key = (
            norm(g, query, brick.query_norm, f"{hint}.query_norm"),
            norm(g, key, brick.key_norm, f"{hint}.key_norm"),
        )
    if brick.rotary is not None:
        query, key = _rotate(view, query, brick.rotary), _rotate(view, key, brick.rotary)
    if view.past:
        key, value = (g.op("Concat", old, new, axis=2) for old, new in zip(view.past[layer], (key, value), strict=True))
        view.present.append((key, value))
    if key_heads != heads:
        key, value = (_repeated(g, each, heads, key_heads, width) for each in (key, value))
    query = g.op("Mul", query, g.number(brick.scale))
    scores = g.op("MatMul", query, g.op("Transpose", key, perm=[0, 1, 3, 2]))
    if brick.relative is not None:
        scores = g.op("Add", scores, _relative(view, brick.relative, f"{hint}.relative"))
    scores = g.op("Add", scores, view.hidden_keys(brick.structure))
    mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), value)
    rows = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.constant([0, 0, heads * width]))
    return g.linear(rows, brick.output, f"{hint}.output")


def _heads(g: Graph, x: str, heads: int, width: int) -> str:
    """Shape: (B, L, heads * width) -> (B, heads, L, width)."""
    return g.op("Transpose", g.op("Reshape", x, g.constant([0, 0, heads, width])), perm=[0, 2, 1, 3])


def _repeated(g: Graph, x: str, heads: int, key_heads: int, width: int) -> str:
    """Each head of keys for those of queries that read it. Shape: (B, Hk, T, D) -> (B, H, T, D)."""
    wide = g.op("Expand", g.op("Unsqueeze", x, g.constant([2])), g.constant([1, 1, heads // key_heads, 1, 1]))
    return g.op("Reshape", wide, g.constant([0, heads, -1, width]))


def _rotate(view: Padded, x: str, rotary: Rotary) -> str:
    """Shape: (B, H, L, D) -> same."""
    g = view.graph
    rest: str | None = None
    if isinstance(rotary, PartialRotary):
        ends = [g.constant([n]) for n in (0, rotary.width, np.iinfo(np.int64).max)]
        x, rest = (g.op("Slice", x, *pair, g.constant([3])) for pair in ((ends[0], ends[1]), (ends[1], ends[2])))
    cosine, sine = view.angles(rotary)
    first, second = g.many("Split", x, count=2, axis=-1)
    left = g.op("Sub", g.op("Mul", first, cosine), g.op("Mul", second, sine))
    right = g.op("Add", g.op("Mul", second, cosine), g.op("Mul", first, sine))
    return g.op("Concat", left, right, *([] if rest is None else [rest]), axis=-1)


def _relative(view: Padded, bias: RelativeBias, hint: str) -> str:
    """What is added by distance. Shape: (H, L, T)."""
    g, reach = view.graph, bias.max_distance + 1
    buckets = bias.bucket(torch.arange(-reach, reach + 1))
    table = bias.table.weight.detach()[buckets]  # (distances, H)
    ahead = g.op("Sub", view.key_places, g.op("Unsqueeze", view.query_places, g.constant([1])))
    index = g.op("Add", g.op("Max", g.op("Min", ahead, g.constant(reach)), g.constant(-reach)), g.constant(reach))
    key = ("relative", id(bias))
    name = g.weight(key, table.numpy(), hint)
    return g.op("Transpose", g.op("Gather", name, index), perm=[2, 0, 1])


def metadata_of(model: LanguageModel) -> Mapping[str, Any]:
    """What a file says of itself."""
    return {"family": model.family, "heads": ", ".join(model.heads)}
