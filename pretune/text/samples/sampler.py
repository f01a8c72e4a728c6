"""Decides which samples a training step sees: a pure function of a few integers, for any number of ranks.

1. A cursor counts the samples consumed of each store; it is the whole state.
2. Stores are interleaved by weight: the k-th sample of a store of weight w is due at (k + 1/2) / w, and samples are
   taken in the order in which they are due. Weights may change after given numbers of samples; counting then begins
   anew.
3. Sample n of a store is element n % len of that epoch's keyed permutation, epoch = n // len. Optionally the samples
   of each fixed window of the permutation are sorted by length, cut into blocks of a batch, and the blocks shuffled.
4. A step takes a number of samples, or as many as a budget of tokens holds; `partition` then deals them to ranks and
   micro-batches. Where none may come twice in a step, it ends with the epoch of a single store, and before the first
   sample that comes again of several. So that none is left with few, the last two before such an end take half each.

Source: (k + 1/2) / w is the rule of Webster and Sainte-Laguë; the seek by permutation follows MosaicML Streaming's
elastic determinism in spirit, without its state.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pretune.draw import Draw, Permutation
from pretune.errors import DataError, UsageError
from pretune.text.samples.rows import Ints, Row, join, names_of, select, sizes_of
from pretune.text.samples.views.view import View

_BLOCK = 1 << 12  # samples of an order that are computed at a time where none are sorted


@dataclass(frozen=True)
class Cursor:
    """Where a run stands in its data.

    Attributes:
        consumed: samples taken so far of each store, epochs included.
    """

    consumed: tuple[int, ...]


class Sampler:
    """Global batches of one or several stores.

    Args:
        views: the samples of each store.
        weights: fraction of the samples from each store; any positive scale.
        draw: the key of the run; orders come from `draw.at("order", store, epoch)`.
        batch_samples: samples of a step, or None.
        batch_tokens: tokens of a step at most, or None; a step has at least one sample.
        window: samples within which lengths are sorted; 0 for none. Rounded up to whole batches.
        overhead: special tokens that a sample gains, counted in `batch_tokens`.
        schedule: other weights, each with the number of samples after which they hold.
        repeats: whether a step may take a sample of one epoch and the same one of the next.

    Raises:
        UsageError: not exactly one of `batch_samples` and `batch_tokens`; weights that are not positive.
        DataError: a store without samples.
    """

    def __init__(
        self,
        views: Sequence[View],
        weights: Sequence[float],
        draw: Draw,
        batch_samples: int | None = None,
        batch_tokens: int | None = None,
        window: int = 0,
        overhead: int = 0,
        schedule: Sequence[tuple[int, Sequence[float]]] = (),
        repeats: bool = True,
    ) -> None:
        _check(views, weights, batch_samples, batch_tokens)
        for _, others in schedule:
            _check(views, others, batch_samples, batch_tokens)
        self.views, self.draw, self.overhead = list(views), draw, overhead
        self.weights = np.asarray(weights, dtype=np.float64)
        self.batch_samples, self.batch_tokens, self.repeats = batch_samples, batch_tokens, repeats
        self.start = Cursor((0,) * len(views))
        self._phases = _phases(self.weights, schedule)
        self._sizes = [len(view) for view in views]
        self._usual = batch_samples or max(1, int(batch_tokens or 1) // max(1, int(self._mean_length())))
        fractions = self.weights / self.weights.sum()
        batches = [max(1, round(self._usual * float(fraction))) for fraction in fractions]
        self._batches = [batch if window > 1 else 0 for batch in batches]
        self._widths = [-(-window // batch) * batch if window > 1 else _BLOCK for batch in batches]
        self._order = lru_cache(maxsize=4 * len(views))(self._shuffle)
        self._block = lru_cache(maxsize=4 * len(views))(self._order_block)

    def _mean_length(self) -> float:
        """Tokens of a sample in the mixture, special ones included."""
        means = [view.data_stats()["used"] / len(view) for view in self.views]
        return float(np.average(means, weights=self.weights)) + self.overhead

    @property
    def size(self) -> int:
        """Samples of all stores together."""
        return sum(self._sizes)

    def epoch(self, cursor: Cursor) -> float:
        """Passes over all stores together: samples consumed for each sample that there is."""
        return sum(cursor.consumed) / sum(self._sizes)

    def seek(self, step: int) -> Cursor:
        """Where a run stands after so many steps of `batch_samples`, without taking them.

        Raises:
            UsageError: steps are of `batch_tokens`: how many samples each took is known only to the run; or a step
                below 0.
        """
        if step < 0:
            raise UsageError(f"step {step}: the first is 0")
        if self.batch_samples is None:
            raise UsageError("steps of batch_tokens differ in samples; begin from a checkpoint's cursor")
        cursor, total = self.start, 0
        while step:
            whole = step if self.repeats else self._steps_before_repeats(total, step)
            total += whole * self.batch_samples
            cursor, step = self._cursor(total), step - whole
            if step:
                total += self._size(cursor, self.batch_samples)
                cursor, step = self._cursor(total), step - 1
        return cursor

    def _cursor(self, total: int) -> Cursor:
        """Where a run stands after so many samples."""
        phase = max(p for p in self._phases if p.start <= total)
        return Cursor(tuple((phase.before + _counts(phase.weights, total - phase.start)).tolist()))

    def _steps_before_repeats(self, total: int, most: int) -> int:
        """How many of the next steps, which are whole, begin so early that no store begins anew in them or the next."""
        size, ends = int(self.batch_samples or 1), self._ends(self._cursor(total))
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            reached = self._cursor(total + (middle + 1) * size).consumed
            fits = all(n <= end for n, end in zip(reached, ends, strict=True))
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def _ends(self, cursor: Cursor) -> list[int]:
        """Samples of each store after which the epoch that it is in, or is about to begin, is over."""
        return [(n // size + 1) * size for n, size in zip(cursor.consumed, self._sizes, strict=True)]

    def _size(self, cursor: Cursor, count: int) -> int:
        """How many of the next `count` samples a step takes, so that it takes none twice."""
        left = 2 * count if self.repeats else self._before_repeat(cursor, 2 * count)
        return count if left >= 2 * count else left if left <= count else (left + 1) // 2

    def _before_repeat(self, cursor: Cursor, count: int) -> int:
        """How many of the next samples a step could take at most, `count` of them or less.

        Of a single store, those of its epoch; of several, those before the first that comes again.
        """
        ends = self._ends(cursor)
        if len(ends) == 1:
            return min(count, ends[0] - cursor.consumed[0])
        ahead = self._due(cursor, count)
        taken = np.bincount(ahead, minlength=len(ends)).tolist()
        if all(n + k <= end for n, k, end in zip(cursor.consumed, taken, ends, strict=True)):
            return count
        samples, bases = np.empty(count, np.int64), np.cumsum([0, *self._sizes])
        for store, runs in enumerate(self._runs(cursor, ahead)):
            samples[ahead == store] = (
                np.concatenate([np.zeros(0, np.int64), *(run.index for run in runs)]) + bases[store]
            )
        order = np.argsort(samples, kind="stable")
        again = order[1:][samples[order[1:]] == samples[order[:-1]]]
        return int(again.min(initial=count))

    def ends_early(self, cursor: Cursor) -> bool:
        """Whether the step at a cursor is smaller than others, as it would take a sample twice."""
        return not self.repeats and self._before_repeat(cursor, 2 * self._usual) < 2 * self._usual

    def next_batch(self, cursor: Cursor) -> tuple[Sequence[Row], Cursor]:
        """The rows of one global step and the cursor after it."""
        stores = self._due(cursor, self.batch_samples or self._usual + self._usual // 2 + 8)
        runs = self._runs(cursor, stores)
        if self.batch_samples is None:
            stores = self._fill(cursor, stores, runs)
        size = self._size(cursor, len(stores))
        if self.batch_samples is None or size < len(stores):
            stores = stores[:size]
            runs = self._runs(cursor, stores)
        consumed = [
            n + sum(len(run.index) for run in store_runs) for n, store_runs in zip(cursor.consumed, runs, strict=True)
        ]
        return self._read(stores, runs), Cursor(tuple(consumed))

    def _due(self, cursor: Cursor, count: int) -> Ints:
        """The stores of the next `count` samples, in order. Shape: (count,)"""
        if len(cursor.consumed) != len(self.views):
            raise DataError(
                f"the cursor counts {len(cursor.consumed)} stores, but the run has {len(self.views)}; "
                "resume with the stores that it began with"
            )
        if len(self.views) == 1:
            return np.zeros(count, np.int64)
        consumed = np.asarray(cursor.consumed, dtype=np.int64)
        out: list[Ints] = []
        while count:
            total = int(consumed.sum())
            phase = max(p for p in self._phases if p.start <= total)
            left = min((p.start - total for p in self._phases if p.start > total), default=count)
            out.append(_due(phase.weights, consumed - phase.before, min(count, left)))
            consumed = consumed + np.bincount(out[-1], minlength=len(consumed))
            count -= len(out[-1])
        return np.concatenate([np.zeros(0, np.int64), *out])

    def _fill(self, cursor: Cursor, stores: Ints, runs: Sequence[Sequence[_StoreSamples]]) -> Ints:
        """The longest head of the due samples that the token budget holds; more are asked for while all fit."""
        budget = int(self.batch_tokens or 0)
        while True:
            lengths = np.empty(len(stores), np.int64)
            for store, store_runs in enumerate(runs):
                if store_runs:
                    run_lengths = [self.views[store].lengths(run.index) for run in store_runs]
                    lengths[stores == store] = np.concatenate(run_lengths)
            total = np.cumsum(lengths + self.overhead)
            if total[-1] > budget:
                return stores[: max(1, int(np.searchsorted(total, budget, side="right")))]
            stores = self._due(cursor, 2 * len(stores))
            runs = self._runs(cursor, stores)

    def _runs(self, cursor: Cursor, stores: Ints) -> list[list[_StoreSamples]]:
        """Where in its view each sample lies, by store: the next of each one's order, a run for each epoch of it."""
        counts = np.bincount(stores, minlength=len(self.views)).tolist()
        return [
            list(self._next(store, first, count))
            for store, (first, count) in enumerate(zip(cursor.consumed, counts, strict=True))
        ]

    def _next(self, store: int, first: int, count: int) -> Iterator[_StoreSamples]:
        size, width = self._sizes[store], self._widths[store]
        while count:
            epoch, offset = divmod(first, size)
            inside = min(count, size - offset)
            blocks = range(offset // width, (offset + inside - 1) // width + 1)
            indices = [self._block(store, epoch, block) for block in blocks]
            index = indices[0] if len(indices) == 1 else np.concatenate(indices)
            begin = offset - blocks[0] * width
            yield _StoreSamples(epoch, index[begin : begin + inside])
            first, count = first + inside, count - inside

    def _shuffle(self, store: int, epoch: int) -> Permutation:
        return Permutation(self._sizes[store], self.draw.at("order", store, epoch))

    def _order_block(self, store: int, epoch: int, number: int) -> Ints:
        """One block of an epoch's order; a window's samples go by length, in shuffled batches, the last part last."""
        width, batch = self._widths[store], self._batches[store]
        places = np.arange(number * width, min((number + 1) * width, self._sizes[store]))
        index = self._order(store, epoch)(places)
        if not batch:
            return index
        index = index[np.argsort(self.views[store].lengths(index), kind="stable")]
        whole = len(index) // batch
        shuffled = np.argsort(self.draw.at("blocks", store, epoch, number).bits(np.arange(whole)), kind="stable")
        head = index[: whole * batch].reshape(whole, batch)[shuffled].ravel()
        return np.concatenate([head, index[whole * batch :]])

    def _read(self, stores: Ints, runs: Sequence[Sequence[_StoreSamples]]) -> Sequence[Row]:
        """The rows of all runs, in the order in which they are due."""
        run_rows = [
            self.views[store].read(run.index, store, run.epoch, self.draw)
            for store, store_runs in enumerate(runs)
            for run in store_runs
        ]
        rows = run_rows[0] if len(run_rows) == 1 else join(run_rows)
        return rows if len(self.views) == 1 else select(rows, np.argsort(np.argsort(stores, kind="stable")))


@dataclass(frozen=True, order=True)
class _Phase:
    """Weights that hold from a number of samples on.

    Attributes:
        start: samples of all stores before it.
        weights, before: of each store, its weight and the samples taken of it before.
    """

    start: int
    weights: NDArray[np.float64] = field(compare=False)
    before: Ints = field(compare=False)


def _phases(weights: NDArray[np.float64], schedule: Sequence[tuple[int, Sequence[float]]]) -> list[_Phase]:
    """The phases of a run, the first from its beginning.

    Raises:
        UsageError: they do not rise.
    """
    out = [_Phase(0, weights, np.zeros(len(weights), np.int64))]
    for start, others in schedule:
        last = out[-1]
        if start <= last.start:
            raise UsageError(f"weights change after numbers of samples that rise, got {start} after {last.start}")
        before = last.before + _counts(last.weights, start - last.start)
        out.append(_Phase(start, np.asarray(others, np.float64), before))
    return out


def _due(weights: NDArray[np.float64], taken: Ints, count: int) -> Ints:
    """The stores of the next `count` samples, in order. Shape: (S,), (S,) -> (count,)"""
    when = (taken[:, None] + np.arange(count) + 0.5) / weights[:, None]
    return np.asarray(np.argsort(when, axis=None, kind="stable")[:count] // count)


def _counts(weights: NDArray[np.float64], total: int) -> Ints:
    """How many of the first `total` samples are of each store, without going through them. Shape: (S,) -> (S,)"""
    surely = max(0, total - len(weights)) / weights.sum()  # what is due by then is no more than the total
    taken = np.floor(surely * weights + 0.5).astype(np.int64)
    rest = total - int(taken.sum())
    return np.asarray(taken + np.bincount(_due(weights, taken, rest), minlength=len(taken)) if rest else taken)


@dataclass(frozen=True)
class _StoreSamples:
    """Samples of one store and epoch: where they lie in its view. Shape: index (n,)"""

    epoch: int
    index: Ints


def _check(
    views: Sequence[View], weights: Sequence[float], batch_samples: int | None, batch_tokens: int | None
) -> None:
    if len(views) != len(weights) or not views:
        raise UsageError(f"{len(views)} stores but {len(weights)} weights; give one weight for each store")
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"weights of stores must be positive, got {list(weights)}; leave a store out instead")
    sizes = [size for size in (batch_samples, batch_tokens) if size is not None]
    if len(sizes) != 1 or sizes[0] < 1:
        raise UsageError(
            "a batch is a number of samples or of tokens, at least 1, and not both: "
            f"got {batch_samples} samples, {batch_tokens} tokens"
        )
    for store, view in enumerate(views):
        if not len(view):
            raise DataError(
                f"store {store} has no sample: {view.data_stats()['tokens']} tokens are too few for one; add text"
            )


def iterate_once(
    view: View, draw: Draw, batch_tokens: int, store: int = 0, limit: int | None = None
) -> Iterator[Sequence[Row]]:
    """Every sample once in storage order, in batches of up to `batch_tokens` tokens: for evaluation.

    Args:
        limit: samples at most, drawn by key; None for all. The choice is the same at each call.
    """
    index = np.arange(len(view))
    if limit is not None and limit < len(index):
        index = np.sort(Permutation(len(view), draw.at("sweep", store))(index[:limit]))
    lengths = view.lengths(index)
    begin = 0
    while begin < len(index):
        total = np.cumsum(lengths[begin : begin + batch_tokens])
        count = max(1, int(np.searchsorted(total, batch_tokens, side="right")))
        yield view.read(index[begin : begin + count], store, 0, draw)
        begin += count


def partition(rows: Sequence[Row], parts: int) -> list[Sequence[Row]]:
    """Deal rows to micro-batches so that tokens are balanced: the longest first, each to the part with fewest tokens.

    Parts are accumulation steps times ranks; rank r of w takes `parts[r::w]`. The result depends on the rows alone, not
    on their order; no part is empty while there are as many rows as parts; rows inside a part go by length, so that
    attention meets equal lengths side by side.

    Source: longest processing time first (Graham 1969), within 4/3 of the best balance.
    """
    sizes = sizes_of(rows)
    order = np.lexsort((*names_of(rows).T[::-1], -sizes))
    if parts == 1:
        return [select(rows, order[::-1])]
    heap = [(0, 0, part) for part in range(parts)]
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for row, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        tokens, count, part = heap[0]
        dealt[part].append(row)
        heapq.heapreplace(heap, (tokens + size, count + 1, part))
    return [select(rows, part[::-1]) for part in dealt]
