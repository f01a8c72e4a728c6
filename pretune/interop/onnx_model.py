"""Puts a whole model together as one ONNX graph: inputs, embedding, blocks, heads or vectors, cache, outputs.

Names of inputs and outputs are those of `optimum`, so that its classes read the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from torch import nn

from pretune.interop.onnx_bricks import (
    KNOWN_ACTIVATIONS,
    Padded,
    activate,
    activation_of,
    embed,
    metadata_of,
    norm,
    run_stack,
)
from pretune.interop.onnx_graph import Graph
from pretune.models.model import LanguageModel
from pretune.models.text_vectors import TextVectors
from pretune.nn.activation import ACTIVATIONS
from pretune.nn.block import Block
from pretune.nn.heads import (
    Activate,
    ChoiceHead,
    DetectionHead,
    Pooler,
    PoolPosition,
    RowHead,
    SequenceHead,
    SpanHead,
    TokenClassificationHead,
    Transform,
    VocabularyHead,
)
from pretune.nn.vector_head import VectorHead
from pretune.nn.vectors import Dense, Normalize, Pooling, PoolingMode, VectorNorm

_HEADS = (
    *(VocabularyHead, SequenceHead, TokenClassificationHead, SpanHead, Pooler, DetectionHead, ChoiceHead, VectorHead),
)
_BEFORE = (nn.Identity, Transform, Pooler, Activate)
_MODULES: dict[type[nn.Module], str] = {
    nn.Identity: "Identity", nn.Tanh: "Tanh", nn.ReLU: "Relu", nn.Sigmoid: "Sigmoid", nn.GELU: "gelu",
}  # fmt: skip


def refuse_heads(model: LanguageModel) -> str | None:
    """Says which head, or which module of its vectors, has no nodes here; None where all have."""
    for role, head in model.heads.items():
        if type(head) not in _HEADS:
            return f"head {role!r} is a {type(head).__name__}, which is not written as ONNX; use pretune for it"
        if isinstance(head, VectorHead) and head.linear.in_features != model.width:
            return f"head {role!r} scores pairs of texts that are read apart, which is not written as ONNX; use pretune"
        before = getattr(head, "transform", getattr(head, "pooler", nn.Identity()))
        function = getattr(before, "activation", getattr(head, "activation", None))
        scaled = type(before).__name__ == "Scale"
        if type(before) not in _BEFORE and not scaled:
            return f"head {role!r} has a {type(before).__name__}, which is not written as ONNX; use pretune for it"
        if function is not None and activation_of(function) is None:
            return f"head {role!r} has an activation that is not written; known: {', '.join(KNOWN_ACTIVATIONS)}"
    for brick in [] if model.vectors is None else model.vectors.bricks:
        odd = isinstance(brick, Dense) and type(brick.activation) not in _MODULES
        if not isinstance(brick, Pooling | Dense | Normalize | VectorNorm) or odd:
            return f"its vectors have a {type(brick).__name__}, which is not written as ONNX; use --pooling mean"
    return None


def write_model(model: LanguageModel, path: Path, type: str) -> list[str]:
    """Writes the graph of a model; returns the names of its outputs."""
    from onnx import TensorProto, helper

    graph = Graph(type)
    is_cached = is_decoder(model)
    ints = TensorProto.INT64
    inputs = [
        helper.make_tensor_value_info("input_ids", ints, ["batch", "length"]),
        helper.make_tensor_value_info("attention_mask", ints, ["batch", "total" if is_cached else "length"]),
    ]
    segments = "token_type_ids" if model.segments > 1 else None
    if segments:
        inputs.append(helper.make_tensor_value_info(segments, ints, ["batch", "length"]))
    past = []
    if is_cached:
        for layer, shape in enumerate(cache_shapes(model)):
            pair = (f"past_key_values.{layer}.key", f"past_key_values.{layer}.value")
            past.append(pair)
            sizes = ["batch", shape[0], "past", shape[1]]
            inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in pair]
    view = Padded(graph, "input_ids", "attention_mask", segments, past=past)
    hidden = run_stack(view, model, embed(view, model.embedding))
    named = _outputs(view, model, hidden)
    for layer, (key, value) in enumerate(view.present):
        named |= {f"present.{layer}.key": (key, 4), f"present.{layer}.value": (value, 4)}
    outputs = []
    for name, (node, rank) in named.items():
        graph.rename(node, name)
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}_{n}" for n in range(rank)]))
    graph.save(path, inputs, outputs, {key: str(value) for key, value in metadata_of(model).items()})
    return [*named]


def is_decoder(model: LanguageModel) -> bool:
    """Whether the graph has a cache: a causal model that writes."""
    return model.is_causal and "clm" in model.heads


def cache_shapes(model: LanguageModel) -> list[tuple[int, int]]:
    """Heads of keys and their width, by layer."""
    attentions = [cast(Block, model.stack.blocks[number]).attention for number in model.stack.order]
    return [(attention.key_heads, attention.head_width) for attention in attentions]


def _outputs(view: Padded, model: LanguageModel, hidden: str) -> dict[str, tuple[str, int]]:
    """Nodes and ranks of the outputs, by name."""
    out: dict[str, tuple[str, int]] = {}
    if not model.heads or model.vectors is not None or set(model.heads) == {"pooler"}:
        out["last_hidden_state"] = (hidden, 3)
    if model.vectors is not None:
        out["sentence_embedding"] = (_vectors(view, model.vectors, hidden), 2)
    roles = [role for role in model.heads if role != "pooler"]
    for role, head in model.heads.items():
        prefix = "" if len(roles) == 1 else f"{role}."
        if isinstance(head, Pooler):
            out["pooler_output"] = (_before(view.graph, _pooled(view, hidden, "first"), head, f"heads.{role}"), 2)
        elif isinstance(head, SpanHead):
            both = view.graph.many("Split", _rows(view, hidden, head, f"heads.{role}"), count=2, axis=-1)
            start, end = (view.graph.op("Squeeze", each, view.graph.constant([2])) for each in both)
            out |= {f"{prefix}start_logits": (start, 2), f"{prefix}end_logits": (end, 2)}
        elif isinstance(head, RowHead):
            out[f"{prefix}logits"] = (_rows(view, hidden, head, f"heads.{role}"), 3)
        elif isinstance(head, DetectionHead):
            inner = activate(view.graph, view.graph.linear(hidden, head.dense, f"heads.{role}.dense"), head.activation)
            scores = view.graph.linear(inner, head.linear, f"heads.{role}")
            out[f"{prefix}logits"] = (view.graph.op("Squeeze", scores, view.graph.constant([2])), 2)
        elif isinstance(head, ChoiceHead):
            scores = _sequence(view, hidden, head, f"heads.{role}")
            out[f"{prefix}logits"] = (view.graph.op("Squeeze", scores, view.graph.constant([1])), 1)
        elif isinstance(head, SequenceHead):
            out[f"{prefix}logits"] = (_sequence(view, hidden, head, f"heads.{role}"), 2)
        elif isinstance(head, VocabularyHead):
            out[f"{prefix}logits"] = (_vocabulary(view.graph, hidden, head, f"heads.{role}"), 3)
    return out


def _vocabulary(g: Graph, x: str, head: VocabularyHead, hint: str) -> str:
    scores = g.product(_before(g, x, head.transform, hint), head.vocabulary, hint)
    return scores if head.bias is None else g.op("Add", scores, g.tensor(head.bias, f"{hint}.bias"))


def _rows(view: Padded, x: str, head: RowHead, hint: str) -> str:
    return view.graph.linear(_before(view.graph, x, head.transform, hint), head.linear, hint)


def _sequence(view: Padded, x: str, head: SequenceHead, hint: str) -> str:
    g = view.graph
    pooled = _before(g, _pooled(view, x, head.pool_position), head.pooler, hint)
    if isinstance(head, VectorHead):
        pooled = _unit(g, pooled)
    return g.linear(pooled, head.linear, hint)


def _unit(g: Graph, x: str) -> str:
    """Rows scaled to length 1. Shape: any -> same."""
    return g.op("Div", x, g.op("Max", g.op("ReduceL2", x, axes=[-1], keepdims=1), g.number(1e-12)))


def _before(g: Graph, x: str, module: nn.Module, hint: str) -> str:
    """What stands before the last layer of a head. Shape: (..., width) -> (..., another width)."""
    if isinstance(module, Activate):
        return activate(g, x, module.activation)
    if isinstance(module, Pooler | Transform):
        x = activate(g, g.linear(x, module.dense, f"{hint}.dense"), module.activation)
        return norm(g, x, module.norm, f"{hint}.norm") if isinstance(module, Transform) else x
    factor = getattr(module, "factor", None)
    return x if factor is None else g.op("Mul", x, g.number(float(factor)))


def _pooled(view: Padded, x: str, position: PoolPosition | PoolingMode) -> str:
    """One row for each text. Shape: (B, L, width) -> (B, width)."""
    g = view.graph
    if position in ("first", "cls", "last"):
        counts = g.op("CumSum", view.mask, g.constant(1))
        wanted = view.mask if position != "last" else counts
        index = g.op("ArgMax", wanted, axis=1, keepdims=1)  # the first of several
        return g.op("GatherND", x, index, batch_dims=1)
    mask = g.op("Unsqueeze", g.op("Cast", view.mask, to=1), g.constant([2]))  # (B, L, 1)
    if position == "max":
        return g.op("ReduceMax", g.op("Where", g.op("Cast", mask, to=9), x, g.number(-np.inf)), axes=[1], keepdims=0)
    weights = mask
    if position == "weightedmean":
        places = g.op("Cast", g.op("Add", view.positions, g.constant(1)), to=1)
        weights = g.op("Mul", mask, g.op("Unsqueeze", places, g.constant([2])))
    axis = g.constant([1])
    total = g.op("ReduceSum", g.op("Mul", x, weights), axis, keepdims=0)
    count = g.op("ReduceSum", weights, axis, keepdims=0)
    return g.op("Div", total, g.op("Sqrt", count) if position == "mean_sqrt_len_tokens" else count)


def _vectors(view: Padded, vectors: TextVectors, hidden: str) -> str:
    """The vectors of texts, by the modules after the last layer. Shape: (B, L, width) -> (B, another width)."""
    g = view.graph
    features: dict[str, str] = {"token_embeddings": hidden}
    for number, brick in enumerate(vectors.bricks):
        if isinstance(brick, Pooling):
            parts = [_pooled(view, features[brick.reads], mode) for mode in brick.modes]
            features[brick.writes] = g.op("Concat", *parts, axis=-1) if len(parts) > 1 else parts[0]
            continue
        x, hint = features[brick.reads], f"vectors.{number}"
        if isinstance(brick, Normalize):
            features[brick.writes] = _unit(g, x)
        elif isinstance(brick, VectorNorm):
            features[brick.writes] = norm(g, x, brick.norm, hint)
        elif isinstance(brick, Dense):
            features[brick.writes] = _dense(g, x, brick, hint)
    out = features["sentence_embedding"]
    if vectors.dimensions is None:
        return out
    return g.op("Slice", out, g.constant([0]), g.constant([vectors.dimensions]), g.constant([1]))


def _dense(g: Graph, x: str, brick: Dense, hint: str) -> str:
    def product(layer: nn.Linear, name: str) -> str:
        out = g.op("MatMul", x, g.op("Transpose", g.tensor(layer.weight, name), perm=[1, 0]))
        return out if layer.bias is None else g.op("Add", out, g.tensor(layer.bias, f"{name}.bias"))

    name, y = _MODULES[type(brick.activation)], product(brick.linear, hint)
    if name == "gelu":
        y = activate(g, y, ACTIVATIONS["gelu"])
    else:
        y = y if name == "Identity" else g.op(name, y)
    if not brick.has_residual:
        return y
    return g.op("Add", y, product(brick.residual, f"{hint}.residual") if hasattr(brick, "residual") else x)
