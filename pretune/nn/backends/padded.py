"""One masked call over a padded view. For export, and for devices without a ragged kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.batch import Layout
from pretune.nn.backends.sdpa import mask_of
from pretune.nn.spans import KeyLayout
from pretune.nn.structure import Biased, Structure


def refuse(
    query: Tensor, key: Tensor, queries: Layout, keys: KeyLayout, structure: Structure, dropout: float
) -> str | None:
    """None: every structure is a mask here."""
    return None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Layout,
    keys: KeyLayout,
    structure: Structure,
    dropout: float,
    scale: float,
) -> Tensor:
    """Pad, one call, unpad. Shapes as in `ragged_attention`."""
    if not queries.longest:
        return torch.zeros_like(query)
    rows = _places(queries.lengths, queries.offsets)
    seen = _places(keys.lengths, keys.offsets)
    places = (rows.shape[1], seen.shape[1])
    if isinstance(structure, Biased):
        mask = query.new_full((len(rows), query.shape[1], *places), -torch.inf)
    else:
        mask = torch.zeros(len(rows), 1, *places, dtype=torch.bool, device=query.device)
    for n, (length, used) in enumerate(zip(queries.lengths, keys.lengths, strict=False)):
        shown = mask_of(structure, length, used, query)
        mask[n, :, :length, :used] = True if shown is None else shown
    out = F.scaled_dot_product_attention(
        query[rows].transpose(1, 2),
        key[seen].transpose(1, 2),
        value[seen].transpose(1, 2),
        attn_mask=mask,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    counts = torch.tensor(queries.lengths, device=query.device)
    real = torch.arange(queries.longest, device=query.device) < counts[:, None]
    return out.transpose(1, 2)[real]


def _places(lengths: tuple[int, ...], offsets: Tensor) -> Tensor:
    """(N, longest) int64: the row of each place; padding repeats the last row, and is masked."""
    longest = max(max(lengths, default=0), 1)
    place = torch.arange(longest, device=offsets.device)
    last = torch.tensor(lengths, device=offsets.device).sub(1).clamp(min=0)
    start = offsets[: len(lengths)].long()
    return start[:, None] + place.clamp(max=last[:, None])
