"""The batch: a flat run of tokens and the lengths of its sequences, without padding or padding masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Targets = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class RowKeys:
    """What names each row of a run, whatever batch it stands in: keys of the decisions that bricks draw.

    Attributes:
        words: (T, 2) int32, on the device of the run.
        calls: how often each site of the model has drawn in this forward; one for all runs of a batch.
        part: number of the adapter whose sequences these are, which draws as if it were alone; None for all sequences.
    """

    words: Tensor
    calls: Counter[Hashable] = field(default_factory=Counter, compare=False, repr=False)
    part: int | None = None

    def next_call(self, site: int) -> int:
        """How often a site has drawn before; counts this time."""
        key = site if self.part is None else (self.part, site)
        before = self.calls[key]
        self.calls[key] = before + 1
        return before

    def at(self, index: Tensor) -> RowKeys:
        """Those of some rows. Shape: index: (M,) int64."""
        return replace(self, words=self.words.index_select(0, index))

    def padded(self, rows: int) -> RowKeys:
        """With more rows, whose decisions nobody reads."""
        return replace(self, words=torch.cat([self.words, self.words.new_zeros(rows, 2)]))

    def to(self, device: torch.device | str) -> RowKeys:
        """The same on `device`."""
        return replace(self, words=self.words.to(device, non_blocking=True))


@dataclass(frozen=True)
class Layout:
    """Where the sequences of a ragged run lie.

    Attributes:
        lengths: tokens of each sequence, known on the host.
        offsets: (N + 1,) int32, first token of each sequence and the total, on the device of the run.
        positions: (T,) int64, place of each token in its sequence (shifted where a cache comes before it).
        keys: of the rows in training; None where nothing is drawn, or torch's generator draws.
        group: which of a model's adapters reads each sequence, known on the host; None where there are none to choose.
    """

    lengths: tuple[int, ...]
    offsets: Tensor
    positions: Tensor
    keys: RowKeys | None = None
    group: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        lengths: Sequence[int] | NDArray[np.int64],
        device: torch.device | str = "cpu",
        *,
        starts: Sequence[int] | None = None,
        group: Sequence[int] | None = None,
    ) -> Layout:
        """Lay out sequences of the given lengths.

        Args:
            starts: position of each sequence's first token, where a cache holds earlier ones; 0 by default.
            group: number of the adapter that reads each.
        """
        run = np.asarray(lengths, dtype=np.int64)
        bounds = np.zeros(len(run) + 1, dtype=np.int64)
        run.cumsum(out=bounds[1:])
        first = bounds[:-1] if starts is None else bounds[:-1] - np.asarray(starts, dtype=np.int64)
        positions = torch.from_numpy(np.arange(int(bounds[-1])) - first.repeat(run))
        offsets = torch.from_numpy(bounds.astype(np.int32))
        if device != "cpu":
            offsets, positions = offsets.to(device), positions.to(device)
        return cls(tuple(run.tolist()), offsets, positions, group=None if group is None else tuple(group))

    @property
    def count(self) -> int:
        """Number of sequences, N."""
        return len(self.lengths)

    @cached_property
    def total(self) -> int:
        """Number of tokens, T."""
        return sum(self.lengths)

    @cached_property
    def max_length(self) -> int:
        """Tokens of the longest sequence; 0 for an empty run."""
        return max(self.lengths, default=0)

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """The offsets on the host: N + 1 integers."""
        return (0, *accumulate(self.lengths))

    @cached_property
    def memo(self) -> dict[Hashable, object]:
        """What bricks derive from this layout and use in every layer, by keys of their own."""
        return {}

    @property
    def first(self) -> Tensor:
        """(N,) int64: index of each sequence's first token in the run."""
        return self.offsets[:-1].long()

    @property
    def last(self) -> Tensor:
        """(N,) int64: index of each sequence's last token in the run."""
        return self.offsets[1:].long() - 1

    def to(self, device: torch.device | str) -> Layout:
        """The same layout with its tensors on `device`."""
        keys = None if self.keys is None else self.keys.to(device)
        return replace(self, offsets=self.offsets.to(device), positions=self.positions.to(device), keys=keys)

    @classmethod
    def join(cls, parts: Sequence[Layout]) -> Layout:
        """Layouts of several runs as that of one, in which they follow each other."""
        bounds = np.cumsum([0, *(length for part in parts for length in part.lengths)]).astype(np.int32)
        device = parts[0].offsets.device
        every = [part.keys for part in parts if part.keys is not None]
        keys = RowKeys(torch.cat([each.words for each in every]), every[0].calls) if len(every) == len(parts) else None
        groups = [part.group for part in parts if part.group is not None]
        return cls(
            tuple(length for part in parts for length in part.lengths),
            torch.from_numpy(bounds).to(device),
            torch.cat([part.positions for part in parts]),
            keys,
            tuple(number for group in groups for number in group) if len(groups) == len(parts) else None,
        )

    def select(self, sequences: Sequence[int]) -> tuple[slice | Tensor, Layout]:
        """Some sequences as a run of their own, in the given order.

        Returns:
            the rows that they are in this run, (M,) int64, or a slice where they follow each other; their layout.
        """
        bounds, device = self.bounds, self.positions.device
        lengths = [self.lengths[n] for n in sequences]
        first = sequences[0] if sequences else 0
        if [*sequences] == [*range(first, first + len(sequences))]:
            rows: slice | Tensor = slice(bounds[first], bounds[first + len(sequences)])
        else:
            runs = [np.arange(bounds[n], bounds[n + 1]) for n in sequences]
            rows = torch.from_numpy(np.concatenate(runs)).to(device)
        offsets = torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)).to(device)
        keys = None if self.keys is None else replace(self.keys, words=self.keys.words[rows])
        group = None if self.group is None else tuple(self.group[n] for n in sequences)
        return rows, Layout(tuple(lengths), offsets, self.positions[rows], keys, group)


@dataclass(frozen=True)
class OutputRows:
    """Some rows of a run.

    Attributes:
        index: (M,) int64, ascending, on the device of the run.
        layout: how many of each sequence they are, and the positions that they have in it.
        fillers: (M,) bool on the host: rows that nobody reads, which only make a round number; None where all are read.
    """

    index: Tensor
    layout: Layout
    fillers: NDArray[np.bool_] | None = None

    @classmethod
    def join(cls, parts: Sequence[OutputRows], totals: Sequence[int]) -> OutputRows:
        """Rows of several runs as rows of one, in which the runs follow each other.

        Args:
            totals: rows of each run.
        """
        starts = accumulate(totals, initial=0)
        index = torch.cat([part.index + start for part, start in zip(parts, starts, strict=False)])
        return cls(index, Layout.join([part.layout for part in parts]))

    @classmethod
    def of(cls, index: NDArray[np.int64], layout: Layout) -> OutputRows:
        """The given rows of a run on the host, each once.

        Shape:
            index: (any,) in any order.
        """
        rows = index if (index[1:] > index[:-1]).all() else np.unique(index)
        offsets = rows.searchsorted(layout.offsets.numpy()).astype(np.int32)
        lengths = tuple((offsets[1:] - offsets[:-1]).tolist())
        positions = torch.from_numpy(layout.positions.numpy().take(rows))
        chosen = torch.from_numpy(rows)
        keys = None if layout.keys is None else layout.keys.at(chosen)
        return cls(chosen, Layout(lengths, torch.from_numpy(offsets), positions, keys, layout.group))

    def to(self, device: torch.device | str) -> OutputRows:
        """The same rows with tensors on `device`."""
        return replace(self, index=self.index.to(device, non_blocking=True), layout=self.layout.to(device))


@dataclass(frozen=True)
class StepContext:
    """What the micro-batches of a step know of each other: see `Objective.gather_across_step`.

    Attributes:
        table: (M, ...) of all micro-batches of all ranks, in the order of the step.
        start: the first row of this one's.
    """

    table: Tensor
    start: int


@dataclass(frozen=True)
class Batch:
    """Tokens, where their sequences lie, and what is to be predicted where.

    Attributes:
        tokens: (T,) int64.
        layout: lengths and positions of the N sequences.
        segments: (T,) int64 or None: 0 for the first text of a pair, 1 for the second.
        source: the encoder's run of a source-target pair, or None.
        targets: for each term, (index (K,), label (K,)): rows of the hidden run (or sequences, for a head that reads
            one row a sequence) and what they must give. Heads see only these rows.
        output_rows: the rows of the last layer that any target needs, which are all that it computes where its
            attention allows; None for all.
        order: (T,) int64 or None: each row's rank in the order in which a permutation language model sees them; -1 for
            rows that all see.
        samples: (N, 3) int64 on the host: (store, epoch, index) that name each sequence; keys of its random decisions
            and what an error message shows.
        data_stats: what was cut, displaced, left out while the batch was built, in tokens or samples.
        continues_word: (T,) bool on the host: whether the token continues the word of the one before it; None where
            only the vocabulary can say.
        step: for which the batch is made; None for evaluation.
        step_context: what an objective asked for of all micro-batches of the step; None for nothing.
        dummies: number of sequences at the end that only make a round number of tokens; nobody reads their rows.
        parts: the batches that it was joined of, each with its own targets; none of a batch that is its own.
    """

    tokens: Tensor
    layout: Layout
    segments: Tensor | None = None
    source: Batch | None = None
    targets: Targets = field(default_factory=dict)
    output_rows: OutputRows | None = None
    order: Tensor | None = None
    samples: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    data_stats: dict[str, int] = field(default_factory=dict)
    continues_word: NDArray[np.bool_] | None = None
    step: int | None = None
    step_context: StepContext | None = None
    dummies: int = 0
    parts: tuple[Batch, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`; copies from pinned memory do not block."""
        move = {
            name: (i.to(device, non_blocking=True), y.to(device, non_blocking=True))
            for name, (i, y) in self.targets.items()
        }
        return replace(
            self,
            tokens=self.tokens.to(device, non_blocking=True),
            layout=self.layout.to(device),
            segments=None if self.segments is None else self.segments.to(device, non_blocking=True),
            source=None if self.source is None else self.source.to(device),
            targets=move,
            output_rows=None if self.output_rows is None else self.output_rows.to(device),
            order=None if self.order is None else self.order.to(device, non_blocking=True),
            parts=tuple(part.to(device) for part in self.parts),
        )


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Several batches as one, for a common forward: the sequences of each follow those of the one before.

    Targets, samples and statistics stay with the parts.

    Raises:
        ValueError: some of them have a source or an order, and others none.
    """
    if len({(batch.source is None, batch.order is None) for batch in batches}) > 1:
        raise ValueError("batches with and without a source or an order have no common forward")
    rows = [batch.output_rows for batch in batches if batch.output_rows is not None]
    segments = [batch.segments for batch in batches]
    filled = [torch.zeros_like(b.tokens) if s is None else s for b, s in zip(batches, segments, strict=True)]
    sources = [batch.source for batch in batches if batch.source is not None]
    orders = [batch.order for batch in batches if batch.order is not None]
    return Batch(
        torch.cat([batch.tokens for batch in batches]),
        Layout.join([batch.layout for batch in batches]),
        torch.cat(filled) if any(each is not None for each in segments) else None,
        join_batches(sources) if sources else None,
        output_rows=OutputRows.join(rows, [b.layout.total for b in batches]) if len(rows) == len(batches) else None,
        order=torch.cat(orders) if orders else None,
    )


def with_parts(batches: Sequence[Batch]) -> Batch:
    """Several batches as one that keeps them: they have a forward in common, and each its own targets.

    Raises:
        ValueError: as `join_batches`.
    """
    data_stats: dict[str, int] = {}
    for batch in batches:
        for name, count in batch.data_stats.items():
            data_stats[name] = data_stats.get(name, 0) + count
    samples = np.concatenate([batch.samples for batch in batches])
    joined = join_batches(batches)
    return replace(joined, samples=samples, data_stats=data_stats, step=batches[0].step, parts=tuple(batches))


def in_group(batch: Batch, number: int) -> Batch:
    """The batch with all of its sequences, and those of its source, read by one adapter."""
    layout = replace(batch.layout, group=(number,) * batch.layout.count)
    rows = batch.output_rows
    if rows is not None:
        rows = replace(rows, layout=replace(rows.layout, group=layout.group))
    source = None if batch.source is None else in_group(batch.source, number)
    return replace(batch, layout=layout, output_rows=rows, source=source)


def bucket_remainder(rows: int) -> int:
    """How many rows a CPU training step adds to a run, so that there are few different numbers of them.

    oneDNN compiles a kernel for each new number of rows, so runs of ever new lengths would compile at every step. The
    multiple is 64 or, where that would be more than a few rows in a hundred, less: there are 32 numbers between 512 and
    1024, and as many between 1024 and 2048.
    """
    return -rows % (16 if rows < 1024 else 32 if rows < 2048 else 64)


def ragged(
    sequences: Sequence[Sequence[int] | NDArray[np.integer]], segments: Sequence[NDArray[np.integer]] | None = None
) -> Batch:
    """Lay token sequences end to end, without targets.

    Shape:
        sequences: N runs of integers; `segments` the same lengths.
    """
    layout = Layout.of([len(sequence) for sequence in sequences])
    return Batch(_join(sequences), layout, None if segments is None else _join(segments))


def _join(runs: Sequence[Sequence[int] | NDArray[np.integer]]) -> Tensor:
    flat = [np.asarray(run, dtype=np.int64) for run in runs]
    return torch.from_numpy(np.concatenate(flat) if flat else np.zeros(0, np.int64))
