"""Attention in a window by SDPA over chunks of queries, each with the keys near them: any device and dropout.

Under a dense mask every score is computed: at length 4096, with a window of 129 keys, the SDPA loop takes 1230 ms on a
core of a CPU, full attention 943, and chunks of 128 queries 102.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.nn.call import AttentionCall
from pretune.nn.spans import EqualLengthGroup, groups_of, heads_of
from pretune.nn.structure import Prefixed, SlidingWindow, Structure

PRIORITY = 15
_CHUNK = 128  # queries at once
_WORTH = 3  # times the keys of a chunk that the longest sequence has at least


def refuse(call: AttentionCall) -> str | None:
    """Says why chunks do not pay for this call, or None."""
    first, window = _parts(call.structure)
    if call.is_keyed:
        return "banded draws dropout by torch's generator"
    if type(window) is not SlidingWindow:
        return f"banded is for windows, not for {window}"
    if call.keys.max_length - first < _WORTH * (_CHUNK + window.before + window.after):
        return "banded is for sequences that are long beside their window"
    return None


def attend(call: AttentionCall) -> Tensor:
    """Computes each group of equal lengths chunk by chunk. Shapes as in `AttentionCall`."""
    out = torch.zeros_like(call.query)
    rows: list[Tensor] = []
    done = 0
    for group in groups_of(call.queries, call.keys):
        rows += [out[done : group.query_start], _attend_group(call, group)]
        done = group.query_start + group.sequences * group.query_length
    return torch.cat([*rows, out[done:]])


def _parts(structure: Structure) -> tuple[int, Structure]:
    """How many keys come first, which all queries see, and the structure of the others."""
    return (structure.length, structure.base) if isinstance(structure, Prefixed) else (0, structure)


def _attend_group(call: AttentionCall, group: EqualLengthGroup) -> Tensor:
    """Shape: return: (sequences * queries, H, D)."""
    shared, window = _parts(call.structure)
    assert isinstance(window, SlidingWindow)
    query = heads_of(call.query, group.query_start, group.query_length, group.sequences)
    key, value = (heads_of(run, group.key_start, group.key_length, group.sequences) for run in (call.key, call.value))
    own = group.key_length - shared
    ahead = own - group.query_length  # the last query stands at the last key
    chunks: list[Tensor] = []
    for start in range(0, group.query_length, _CHUNK):
        stop = min(start + _CHUNK, group.query_length)
        first, last = max(0, ahead + start - window.before), min(own, ahead + stop + window.after)
        position = torch.arange(first, last, device=query.device)
        distance = position - torch.arange(ahead + start, ahead + stop, device=query.device)[:, None]
        visible = (distance >= -window.before) & (distance <= window.after)
        if shared:
            visible = torch.cat([visible.new_ones(stop - start, shared), visible], dim=1)
        parts = (query[:, :, start:stop], _near(key, shared, first, last), _near(value, shared, first, last))
        mixed = F.scaled_dot_product_attention(
            *parts, visible, call.dropout, scale=call.scale, enable_gqa=call.has_grouped_heads
        )
        chunks.append(mixed)
    return torch.cat(chunks, dim=2).transpose(1, 2).flatten(0, 1)


def _near(run: Tensor, shared: int, first: int, last: int) -> Tensor:
    """The rows that all queries see, and some others. Shape: (n, H, S, D) -> (n, H, shared + last - first, D)."""
    rows = run[:, :, shared + first : shared + last]
    return torch.cat([run[:, :, :shared], rows], dim=2) if shared else rows
