"""Shapes the batch of a training step: rounded up to few sizes on the CPU, cut shorter early in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from pretune.batch import Batch, Layout, OutputRows, bucket_remainder


def pad_to_bucket(batch: Batch, *, pad_output_rows: bool = True) -> Batch:
    """Pads a batch to a round number of tokens by dummy sequences, from which nothing is predicted.

    The rows that the last layer computes are padded too, by some more of the batch's own rows. Targets, samples and
    statistics stay as they are.

    Args:
        pad_output_rows: without it the last layer computes no row of a sequence that nobody reads. The last bits of
            what it gives for a sequence may depend on the number of its rows; so they depend on the sequence alone.
    """
    if batch.source is not None:
        return _pad_pair(batch, batch.source)
    missing = bucket_remainder(batch.layout.total)
    if not batch.layout.max_length or (not missing and batch.output_rows is None):
        return batch
    if not missing:
        return replace(batch, output_rows=_pad_output_rows(batch, batch.layout, others=pad_output_rows))
    max_length = batch.layout.max_length  # dummies must not need more positions than the batch's own sequences
    rest = [missing % max_length] if missing % max_length else []
    return _with_dummies(batch, [max_length] * (missing // max_length) + rest, others=pad_output_rows)


def _pad_pair(batch: Batch, source: Batch) -> Batch:
    """Pads both runs with as many dummy sequences in each; none in the source is empty."""
    max_lengths = (batch.layout.max_length, source.layout.max_length)
    missing = [bucket_remainder(batch.layout.total), bucket_remainder(source.layout.total)]
    if not all(max_lengths) or not any(missing):
        return batch
    count = max(-(-missing[0] // max_lengths[0]), -(-missing[1] // max_lengths[1]))
    while missing[1] < count:
        missing[1] += 1 + bucket_remainder(source.layout.total + missing[1] + 1)
    count = max(count, -(-missing[1] // max_lengths[1]))
    lengths = [[size // count + (n < size % count) for n in range(count)] for size in missing]
    return replace(_with_dummies(batch, lengths[0]), source=_with_dummies(source, lengths[1]))


def _with_dummies(batch: Batch, dummies: Sequence[int], *, others: bool = True) -> Batch:
    """The batch with more sequences, of the given lengths; `others` as in `_pad_output_rows`."""
    missing = sum(dummies)
    keys = batch.layout.keys
    group = batch.layout.group
    group = None if group is None else (*group, *group[:1] * len(dummies))
    layout = Layout.of([*batch.layout.lengths, *dummies], batch.tokens.device, group=group)
    layout = layout if keys is None else replace(layout, keys=keys.padded(missing))
    return replace(
        batch,
        tokens=torch.cat([batch.tokens, batch.tokens[:1].expand(missing)]),
        layout=layout,
        dummies=batch.dummies + len(dummies),
        output_rows=_pad_output_rows(batch, layout, others=others),
        segments=None if batch.segments is None else torch.cat([batch.segments, batch.segments[:1].expand(missing)]),
        order=None if batch.order is None else torch.cat([batch.order, batch.order.new_full((missing,), -1)]),
    )


def _pad_output_rows(batch: Batch, layout: Layout, *, others: bool) -> OutputRows | None:
    """The output rows, the dummies' rows, and, with `others`, some spread over the run that make a round number."""
    if batch.output_rows is None:
        return None
    own = batch.output_rows.index.numpy()
    read = np.zeros(layout.total, np.bool_)
    read[own] = True
    read[batch.layout.total :] = True
    left = np.flatnonzero(~read)
    more = min(len(left), bucket_remainder(int(read.sum()))) if others else 0
    read[left[np.arange(more) * len(left) // max(more, 1)]] = True
    rows = OutputRows.of(np.flatnonzero(read), layout)
    fillers = np.ones(len(rows.index), np.bool_)
    fillers[rows.index.numpy().searchsorted(own)] = False
    return replace(rows, fillers=fillers)


def split_sequences(batch: Batch, length: int) -> Batch:
    """Cuts the run into sequences of at most `length` tokens: attention ends, and positions begin anew, at each cut.

    A sequence falls into parts that differ by one token at most. Tokens, targets that are rows of the run, samples and
    statistics stay as they are; a target that is a sequence would lose its meaning.
    """
    if batch.layout.max_length <= length:
        return batch
    lengths = np.array(batch.layout.lengths, np.int64)
    parts = -(-lengths // length)
    first = np.cumsum(parts) - parts
    number = np.arange(int(parts.sum())) - first.repeat(parts)
    quotient, rest = np.divmod(lengths, np.maximum(parts, 1))
    lengths = quotient.repeat(parts) + (number < rest.repeat(parts))
    group = batch.layout.group
    group = None if group is None else tuple(np.array(group, np.int64).repeat(parts).tolist())
    layout = replace(Layout.of(lengths, batch.tokens.device, group=group), keys=batch.layout.keys)
    output_rows = None if batch.output_rows is None else OutputRows.of(batch.output_rows.index.numpy(), layout)
    return replace(batch, layout=layout, output_rows=output_rows)
