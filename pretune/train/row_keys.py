"""Keys of rows and numbers of sites: dropout decides by both, whatever micro-batch or rank a sample is in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pretune.batch import Batch, Layout, OutputRows, RowKeys
from pretune.draw import Draw, mix, mixable
from pretune.nn.dropout import DropoutSite

_MEMBER = re.compile(r"\.members\.\d+")  # which of several adapters


def key_rows(batch: Batch, draw: Draw) -> Batch:
    """The batch with a key for each row: a function of its sample's name and of its place in the sample.

    Sequences of one sample, such as the twins of SimCSE, are told apart by their order. Where sequences are not named
    by samples, as an objective of a user's own may leave them, rows have no keys.

    Args:
        draw: the key of the run's step.
    """
    calls: Counter[Hashable] = Counter()
    source = batch.source
    if source is not None:
        names = source.samples if len(source.samples) else batch.samples
        layout = _keyed(source.layout, names, draw.at("source"), calls)
        source = replace(source, layout=layout, output_rows=_rows(source.output_rows, layout))
    layout = _keyed(batch.layout, batch.samples, draw, calls)
    return replace(batch, source=source, layout=layout, output_rows=_rows(batch.output_rows, layout))


def name_sites(root: nn.Module) -> None:
    """Gives every brick of a model that drops values a number of its own, which its name in the model decides.

    A brick of one of several adapters has the number that it would have if its adapter were the only one.
    """
    for name, module in root.named_modules():
        if isinstance(module, DropoutSite):
            module.site = Draw(0).at(_MEMBER.sub("", name) if name.startswith("model.") else name).key


def begin_forward(batch: Batch) -> None:
    """Lets every site of the model draw as in the first forward of this batch."""
    for layout in (batch.layout, None if batch.source is None else batch.source.layout):
        if layout is not None and layout.keys is not None:
            layout.keys.calls.clear()
    for part in batch.parts:
        begin_forward(part)


def _keyed(layout: Layout, samples: NDArray[np.int64], draw: Draw, calls: Counter[Hashable]) -> Layout:
    if len(samples) != layout.count:
        return layout
    keys = draw.keys(samples)
    order = keys.argsort(kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(keys)])
    turn = np.empty(len(keys), np.int64)  # of each sequence among those of its sample
    turn[order] = np.arange(len(keys)) - np.repeat(first, np.diff(np.append(first, len(keys))))
    sequences = mixable(mix(mixable(keys), turn, 1 + int(turn.max(initial=0))))
    rows = mix(sequences.repeat(layout.lengths), layout.positions.numpy(), layout.max_length)
    return replace(layout, keys=RowKeys(torch.from_numpy(rows.view(np.int32).reshape(-1, 2)), calls))


def _rows(rows: OutputRows | None, layout: Layout) -> OutputRows | None:
    if rows is None or layout.keys is None:
        return rows
    return replace(rows, layout=replace(rows.layout, keys=layout.keys.at(rows.index)))
