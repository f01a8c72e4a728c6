"""Prefetches batches: a thread draws, partitions, prepares, corrupts and counts while the last step still runs.

What it gives is a pure function of the cursors and the step's number, so nothing of it needs saving.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from torch import Tensor

from pretune.batch import Batch, Layout, with_parts
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.objectives.objective import Objective
from pretune.text.samples.sampler import Cursor, Sampler, partition
from pretune.train.row_keys import key_rows


@dataclass(frozen=True)
class PreparedStep:
    """This rank's part of a global step.

    Attributes:
        batches: one for each micro-batch.
        counts: predictions of each term in them.
        tokens, samples: in them.
        data_stats: what was cut or displaced while they were built.
        cursors: of every part of the objective, after the step.
        epoch: passes over the data, after the step.
    """

    batches: list[Batch]
    counts: dict[str, int]
    tokens: int
    samples: int
    data_stats: dict[str, int]
    cursors: tuple[Cursor, ...]
    epoch: float


@dataclass(frozen=True)
class PreparedPart:
    """This rank's batches of one part of the objective.

    Attributes:
        batches: one for each micro-batch.
        data_stats: what only all micro-batches of the step together show, on the first rank.
        cursor: of the part, after the step.
    """

    batches: list[Batch]
    data_stats: dict[str, int]
    cursor: Cursor


class Prefetcher:
    """Prepares steps in a thread of its own.

    Args:
        samplers: one for each part of the objective.
        draw: the key of the run.
        step: number of the first step to prepare.
        cursors: where each sampler stands.
        accumulate: micro-batches of a rank.
        rank, world_size: this rank and how many there are.
        pin: put tensors into pinned memory, from which copies to a GPU do not block.
    """

    def __init__(
        self,
        objective: Objective,
        samplers: Sequence[Sampler],
        draw: Draw,
        step: int,
        cursors: Sequence[Cursor],
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        pin: bool = False,
    ) -> None:
        self.data_wait = 0.0
        self._objective, self._samplers, self._draw = objective, list(samplers), draw
        self._accumulate, self._rank, self._world_size, self._pin = accumulate, rank, world_size, pin
        self._ready: queue.Queue[PreparedStep | BaseException] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(step, tuple(cursors)), name="prefetcher", daemon=True)
        self._thread.start()

    def next(self) -> PreparedStep:
        """The next step; time spent waiting for it is added to `data_wait`, in seconds."""
        begin = time.perf_counter()
        item = self._ready.get()
        self.data_wait += time.perf_counter() - begin
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _run(self, step: int, cursors: tuple[Cursor, ...]) -> None:
        try:
            while not self._closed.is_set():
                item = self.prepare(step, cursors)
                step, cursors = step + 1, item.cursors
                self._ready.put(item)
        except BaseException as error:  # handed to the loop, which raises it
            self._ready.put(error)

    def prepare(self, step: int, cursors: tuple[Cursor, ...]) -> PreparedStep:
        """This rank's part of one step: the part that the step's key picks, or all parts, from their samplers."""
        objective, after = self._objective, list(cursors)
        chosen = range(len(cursors)) if objective.trains_all else (objective.choose(self._draw, step),)
        parts = [self._prepare_part(part, step, cursors[part]) for part in chosen]
        batches = parts[0].batches
        if objective.trains_all:
            every = zip_longest(*(part.batches for part in parts))
            batches = [with_parts([batch for batch in own if batch is not None]) for own in every]
        counts: dict[str, int] = {}
        data_stats: dict[str, int] = {}
        for number, part in zip(chosen, parts, strict=True):
            after[number] = part.cursor
            add(data_stats, part.data_stats)
        for batch in batches:
            add(counts, objective.counts(batch))
            add(data_stats, batch.data_stats)
        return PreparedStep(
            [pinned(batch) for batch in batches] if self._pin else batches,
            counts,
            sum(batch.layout.total for batch in batches),
            sum(batch.layout.count for batch in batches),
            data_stats,
            tuple(after),
            self._epoch(after),
        )

    def _prepare_part(self, part: int, step: int, cursor: Cursor) -> PreparedPart:
        """This rank's batches of one part of the objective, from that part's sampler."""
        objective, sampler = self._objective.alternatives[part], self._samplers[part]
        rows, after = sampler.next_batch(cursor)
        parts = self._accumulate * self._world_size
        if len(rows) < parts and sampler.ends_early(cursor):
            parts = len(rows) // self._world_size * self._world_size
        if not 0 < parts <= len(rows):
            raise UsageError(
                f"step {step + 1} has {len(rows)} sequences for {parts or self._world_size} micro-batches over all "
                "ranks; make data.batch (or data.batch_tokens) larger, or data.accumulate smaller"
            )
        dealt = partition(rows, parts)
        keys = self._draw.at("dropout", step)
        own = dealt[self._rank :: self._world_size]
        batches = [key_rows(objective.build_batch(rows, self._draw, step), keys) for rows in own]
        return PreparedPart(batches, {} if self._rank else objective.step_data_stats(dealt), after)

    def _epoch(self, cursors: Sequence[Cursor]) -> float:
        """Passes over the data: the fewest of all parts, or over all of it where each has its own and takes turns."""
        if not self._objective.trains_all and all(part.has_own_samples for part in self._objective.alternatives):
            return sum(sum(cursor.consumed) for cursor in cursors) / sum(s.size for s in self._samplers)
        return min(s.epoch(c) for s, c in zip(self._samplers, cursors, strict=True))


def add(into: dict[str, int], more: dict[str, int]) -> None:
    """Add counts by name."""
    for name, value in more.items():
        into[name] = into.get(name, 0) + value


def pinned(batch: Batch) -> Batch:
    """The same batch in pinned memory."""

    def pin(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.pin_memory()

    def lay(layout: Layout) -> Layout:
        keys = None if layout.keys is None else replace(layout.keys, words=layout.keys.words.pin_memory())
        return replace(layout, offsets=layout.offsets.pin_memory(), positions=layout.positions.pin_memory(), keys=keys)

    rows = batch.output_rows
    return replace(
        batch,
        tokens=batch.tokens.pin_memory(),
        segments=pin(batch.segments),
        layout=lay(batch.layout),
        output_rows=None if rows is None else replace(rows, index=rows.index.pin_memory(), layout=lay(rows.layout)),
        order=pin(batch.order),
        source=None if batch.source is None else pinned(batch.source),
        targets={name: (i.pin_memory(), y.pin_memory()) for name, (i, y) in batch.targets.items()},
        parts=tuple(pinned(part) for part in batch.parts),
    )
