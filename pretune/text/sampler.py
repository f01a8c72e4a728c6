"""Which samples a training step sees: a pure function of a few integers, whatever the number of ranks and workers.

1. A cursor counts the samples consumed of each store; it is the whole state.
2. Stores are interleaved by weight: the k-th sample of a store of weight w is due at (k + 1/2) / w, and samples are
   taken in the order in which they are due.
3. Sample n of a store is element n % len of that epoch's keyed permutation, epoch = n // len. Optionally the samples
   of each fixed window of the permutation are sorted by length, cut into blocks of a batch, and the blocks shuffled.
4. A step takes a number of samples, or as many as a budget of tokens holds; `divide` then deals them to ranks and
   micro-batches.

Source: (k + 1/2) / w is the rule of Webster and Sainte-Laguë; the seek by permutation follows MosaicML Streaming's
elastic determinism in spirit, without its state.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pretune.draw import Draw, Permutation
from pretune.errors import DataError, UsageError
from pretune.text.views import Ints, Row, View


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
        weights: share of each store in the samples; any positive scale.
        draw: the key of the run; orders come from `draw.at("order", store, epoch)`.
        batch_samples: samples of a step, or None.
        batch_tokens: tokens of a step at most, or None; a step has at least one sample.
        window: samples within which lengths are sorted; 0 for none. Rounded up to whole batches.
        overhead: special tokens that a sample gains, counted in `batch_tokens`.

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
    ) -> None:
        _check(views, weights, batch_samples, batch_tokens)
        self.views, self.draw, self.overhead = list(views), draw, overhead
        self.weights = np.asarray(weights, dtype=np.float64)
        self.batch_samples, self.batch_tokens = batch_samples, batch_tokens
        self.start = Cursor((0,) * len(views))
        self._sizes = np.array([len(view) for view in views], dtype=np.int64)
        self._usual = batch_samples or max(1, int(batch_tokens or 1) // max(1, int(self._mean_length())))
        shares = self.weights / self.weights.sum()
        self._blocks = [max(1, round(self._usual * float(share))) for share in shares]
        self._windows = [-(-window // block) * block if window > 1 else 0 for block in self._blocks]
        self._order = lru_cache(maxsize=4 * len(views))(self._shuffle)
        self._sorted = lru_cache(maxsize=4 * len(views))(self._sort_window)

    def _mean_length(self) -> float:
        """Tokens of a sample in the mixture, special ones included."""
        means = [view.account()["used"] / len(view) for view in self.views]
        return float(np.average(means, weights=self.weights)) + self.overhead

    def epoch(self, cursor: Cursor) -> float:
        """Passes over all stores together: samples consumed for each sample that there is."""
        return sum(cursor.consumed) / int(self._sizes.sum())

    def take(self, cursor: Cursor) -> tuple[list[Row], Cursor]:
        """The rows of one global step and the cursor after it."""
        stores, numbers = self._due(cursor, self.batch_samples or self._usual + self._usual // 2 + 8)
        index = self._locate(stores, numbers)
        if self.batch_samples is None:
            stores, numbers, index = self._fill(cursor, stores, numbers, index)
        consumed = np.asarray(cursor.consumed) + np.bincount(stores, minlength=len(self.views))
        return self._read(stores, numbers, index), Cursor(tuple(consumed.tolist()))

    def _due(self, cursor: Cursor, count: int) -> tuple[Ints, Ints]:
        """The next `count` samples: their stores and their numbers in the store, in order. Shape: (count,) each."""
        if len(cursor.consumed) != len(self.views):
            raise DataError(
                f"the cursor counts {len(cursor.consumed)} stores, but the run has {len(self.views)}; "
                "resume with the stores that it began with"
            )
        consumed = np.asarray(cursor.consumed, dtype=np.int64)
        if len(consumed) == 1:
            return np.zeros(count, np.int64), consumed[0] + np.arange(count)
        numbers = consumed[:, None] + np.arange(count)
        when = (numbers + 0.5) / self.weights[:, None]
        order = np.argsort(when, axis=None, kind="stable")[:count]
        return order // count, numbers.ravel()[order]

    def _fill(self, cursor: Cursor, stores: Ints, numbers: Ints, index: Ints) -> tuple[Ints, Ints, Ints]:
        """The longest head of the due samples that the token budget holds; more are asked for while all fit."""
        budget = int(self.batch_tokens or 0)
        while True:
            total = np.cumsum(self._lengths(stores, index) + self.overhead)
            if total[-1] > budget:
                keep = max(1, int(np.searchsorted(total, budget, side="right")))
                return stores[:keep], numbers[:keep], index[:keep]
            stores, numbers = self._due(cursor, 2 * len(stores))
            index = self._locate(stores, numbers)

    def _lengths(self, stores: Ints, index: Ints) -> Ints:
        out = np.empty(len(index), np.int64)
        for store in np.unique(stores).tolist():
            mine = stores == store
            out[mine] = self.views[store].lengths(index[mine])
        return out

    def _locate(self, stores: Ints, numbers: Ints) -> Ints:
        """Where in its view each sample lies. Shape: (n,), (n,) -> (n,)."""
        out = np.empty(len(numbers), np.int64)
        for store, epoch, mine in self._epochs(stores, numbers):
            place = numbers[mine] % self._sizes[store]
            width = self._windows[store]
            if not width:
                out[mine] = self._order(store, epoch)(place)
                continue
            found = np.empty(len(place), np.int64)
            for window in np.unique(place // width).tolist():
                inside = place // width == window
                found[inside] = self._sorted(store, epoch, window)[place[inside] % width]
            out[mine] = found
        return out

    def _epochs(self, stores: Ints, numbers: Ints) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
        """Each (store, epoch) among the samples, with the mask of those that belong to it."""
        kinds = numbers // self._sizes[stores] * len(self._sizes) + stores
        for kind in np.unique(kinds).tolist():
            yield kind % len(self._sizes), kind // len(self._sizes), kinds == kind

    def _shuffle(self, store: int, epoch: int) -> Permutation:
        return Permutation(int(self._sizes[store]), self.draw.at("order", store, epoch))

    def _sort_window(self, store: int, epoch: int, window: int) -> Ints:
        """Samples of one window by length, in shuffled blocks; a last incomplete block stays last."""
        width, block = self._windows[store], self._blocks[store]
        places = np.arange(window * width, min((window + 1) * width, int(self._sizes[store])))
        index = self._order(store, epoch)(places)
        index = index[np.argsort(self.views[store].lengths(index), kind="stable")]
        whole = len(index) // block
        shuffled = np.argsort(self.draw.at("blocks", store, epoch, window).bits(np.arange(whole)), kind="stable")
        head = index[: whole * block].reshape(whole, block)[shuffled].ravel()
        return np.concatenate([head, index[whole * block :]])

    def _read(self, stores: Ints, numbers: Ints, index: Ints) -> list[Row]:
        rows: list[Row | None] = [None] * len(index)
        for store, epoch, mine in self._epochs(stores, numbers):
            found = self.views[store].read(index[mine], store, epoch, self.draw)
            for n, row in zip(np.flatnonzero(mine).tolist(), found, strict=True):
                rows[n] = row
        return [row for row in rows if row is not None]


def _check(
    views: Sequence[View], weights: Sequence[float], batch_samples: int | None, batch_tokens: int | None
) -> None:
    if len(views) != len(weights) or not views:
        raise UsageError(f"{len(views)} stores but {len(weights)} weights; give one weight for each store")
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"weights of stores must be positive, got {list(weights)}; leave a store out instead")
    given = [size for size in (batch_samples, batch_tokens) if size is not None]
    if len(given) != 1 or given[0] < 1:
        raise UsageError(
            "a batch is a number of samples or of tokens, at least 1, and not both: "
            f"got {batch_samples} samples, {batch_tokens} tokens"
        )
    for store, view in enumerate(views):
        if not len(view):
            raise DataError(
                f"store {store} has no sample: {view.account()['tokens']} tokens are too few for one; add text"
            )


def sweep(view: View, draw: Draw, batch_tokens: int, store: int = 0, limit: int | None = None) -> Iterator[list[Row]]:
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


def divide(rows: Sequence[Row], parts: int) -> list[list[Row]]:
    """Deal rows to micro-batches so that tokens are balanced: the longest first, each to the part with fewest tokens.

    Parts are accumulation steps times ranks; rank r of w takes `parts[r::w]`. The result depends on the rows alone, not
    on their order; no part is empty while there are as many rows as parts; rows inside a part go by length, so that
    attention meets equal lengths side by side.

    Source: longest processing time first (Graham 1969), within 4/3 of the best balance.
    """
    heap = [(0, 0, part) for part in range(parts)]
    dealt: list[list[Row]] = [[] for _ in range(parts)]
    for row in sorted(rows, key=lambda row: (-row.size, row.sample)):
        tokens, count, part = heap[0]
        dealt[part].append(row)
        heapq.heapreplace(heap, (tokens + row.size, count + 1, part))
    return [part[::-1] for part in dealt]
