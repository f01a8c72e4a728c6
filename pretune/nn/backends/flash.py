"""Attention on the CPU by ATen's flash kernels, forward and backward, over groups of equal lengths, as one operator.

`torch.compile` sees one node for a whole ragged batch, whatever its lengths: they are read from the offsets inside.
Attention dropout and structures other than bidirectional and causal are left to the SDPA loop.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pretune.nn.call import AttentionCall
from pretune.nn.one_query import attend_once
from pretune.nn.operators import operator
from pretune.nn.spans import CacheSlots, EqualLengthGroup, covers, grouped, groups_of, heads_of
from pretune.nn.structure import CAUSAL, Bidirectional, Causal

PRIORITY = 20
_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def refuse(call: AttentionCall) -> str | None:
    """Says why the kernel cannot do this call, or None."""
    if call.query.device.type != "cpu":
        return "flash is the CPU kernel"
    if call.dropout > 0:
        return "flash on CPU has no dropout"
    if type(call.structure) not in (Bidirectional, Causal):
        return f"flash on CPU has no kernel for {call.structure}"
    if call.has_grouped_heads:
        return "flash on CPU needs as many key heads as query heads"
    if call.through_cache and _differentiated(call.query, call.key):
        return "flash on CPU has no backward through a cache"
    return None


def attend(call: AttentionCall) -> Tensor:
    """Computes each group of equal lengths in one kernel call. Shapes as in `AttentionCall`."""
    queries, keys = call.queries, call.keys
    if isinstance(keys, CacheSlots):
        return _from_slots(call, keys)
    run = (call.query, call.key, call.value)
    if torch.compiler.is_compiling() or _differentiated(*run):
        out: Tensor = ragged_flash(*run, queries.offsets, keys.offsets, call.is_causal, call.scale)[0]
        return out
    return _run(*run, groups_of(queries, keys), call.is_causal, call.scale)[0]


def _differentiated(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _from_slots(call: AttentionCall, keys: CacheSlots) -> Tensor:
    """One call over all slots where every sequence has one query, or all have the same lengths; else one by one."""
    query, key, value, queries, causal, scale = (
        call.query,
        call.key,
        call.value,
        call.queries,
        call.is_causal,
        call.scale,
    )
    length = queries.lengths[0]
    alike = min(queries.lengths) == queries.max_length
    if alike and length == 1 and min(keys.lengths) > 0:
        return attend_once(query, key, value, keys, scale)
    if not alike or min(keys.lengths) != keys.max_length:
        return _run(query, key, value, groups_of(queries, keys), causal, scale)[0]
    mask = _triangle(query, length, keys.max_length) if causal and length > 1 else None
    q = heads_of(query, 0, length, len(keys.lengths))
    return _flat(_forward(q, keys.heads_of(key), keys.heads_of(value), 0.0, False, attn_mask=mask, scale=scale)[0])


def _flat(heads: Tensor) -> Tensor:
    """(n, H, L, ...) as the kernel lays it out -> (n * L, H, ...), a view."""
    return heads.transpose(1, 2).flatten(0, 1)


def _triangle(query: Tensor, queries: int, keys: int) -> Tensor:
    """The causal mask as the kernel wants it: added to the scores. Shape: (queries, keys)."""
    visible = CAUSAL.visible(queries, keys)
    assert visible is not None
    return torch.zeros(queries, keys, dtype=query.dtype).masked_fill_(~visible, -torch.inf)


def _masking(query: Tensor, group: EqualLengthGroup, causal: bool) -> tuple[bool, Tensor | None]:
    """Gives the kernel's own causal flag, which is aligned at the top left, or a mask."""
    if not causal or group.query_length == 1:
        return False, None
    if group.query_length == group.key_length:
        return True, None
    return False, _triangle(query, group.query_length, group.key_length)


def _run(
    query: Tensor, key: Tensor, value: Tensor, groups: tuple[EqualLengthGroup, ...], causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Forward of all groups.

    Shape:
        return: out (Tq, H, D) and the log of the softmax mass (Tq, H)
    """
    total = query.shape[0]
    whole = len(groups) == 1 and groups[0].sequences * groups[0].query_length == total
    out = query if whole else query.new_zeros(query.shape)
    mass = query if whole else query.new_zeros(query.shape[:2], dtype=_mass_dtype(query))
    for group in groups:
        flag, mask = _masking(query, group, causal)
        o, m = _forward(
            heads_of(query, group.query_start, group.query_length, group.sequences),
            heads_of(key, group.key_start, group.key_length, group.sequences),
            heads_of(value, group.key_start, group.key_length, group.sequences),
            0.0,
            flag,
            attn_mask=mask,
            scale=scale,
        )
        if whole:
            return _flat(o), _flat(m)
        rows = slice(group.query_start, group.query_start + group.sequences * group.query_length)
        out[rows] = _flat(o)
        mass[rows] = _flat(m)
    return out, mass


def _mass_dtype(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype == torch.float64 else torch.float32


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, query_offsets, key_offsets, ctx.causal, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *output, query_offsets, key_offsets)


def _differentiate(ctx: Any, grad: Tensor, _mass: Tensor) -> tuple[Tensor | None, ...]:
    grads = ragged_flash_backward(grad.contiguous(), *ctx.saved_tensors, ctx.causal, ctx.scale)
    return (*grads, None, None, None, None)


def _shapes(
    query: Tensor, key: Tensor, value: Tensor, query_offsets: Tensor, key_offsets: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:2], dtype=_mass_dtype(query))


def _shapes_of_gradients(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


@operator("pretune::ragged_flash", _shapes, _differentiate, _save)
def ragged_flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention of two ragged runs on the CPU, differentiable.

    Shape:
        query: (Tq, H, D); key, value: (Tk, H, D); offsets: (N + 1,) int32.
        return: out (Tq, H, D), log of the softmax mass (Tq, H)
    """
    groups = grouped(tuple(query_offsets.tolist()), tuple(key_offsets.tolist()))
    return _run(query, key, value, groups, causal, scale)


@operator("pretune::ragged_flash_backward", _shapes_of_gradients)
def ragged_flash_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    mass: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `ragged_flash`. Shape: as its inputs."""
    groups = grouped(tuple(query_offsets.tolist()), tuple(key_offsets.tolist()))
    whole = len(groups) == 1 and covers(groups, query.shape[0], key.shape[0])
    inputs = (query, key, value)
    grads = inputs if whole else tuple(torch.zeros_like(x, memory_format=torch.contiguous_format) for x in inputs)
    for group in groups:
        flag, mask = _masking(query, group, causal)
        q_span = (group.query_start, group.query_length, group.sequences)
        k_span = (group.key_start, group.key_length, group.sequences)
        parts = _backward(
            heads_of(grad, *q_span),
            heads_of(query, *q_span),
            heads_of(key, *k_span),
            heads_of(value, *k_span),
            heads_of(out, *q_span),
            mass.narrow(0, q_span[0], group.sequences * group.query_length)
            .view(group.sequences, group.query_length, -1)
            .transpose(1, 2),
            0.0,
            flag,
            attn_mask=mask,
            scale=scale,
        )
        if whole:
            return _flat(parts[0]), _flat(parts[1]), _flat(parts[2])
        for target, part, (start, length, count) in zip(grads, parts, (q_span, k_span, k_span), strict=True):
            target[start : start + length * count] = _flat(part)
    return grads[0], grads[1], grads[2]
