"""Finds duplicate documents by 128-bit digests in sorted arrays, at most 32 bytes per document."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretune.draw import Words


class DuplicateFilter:
    """A set of 128-bit digests that is asked and filled a batch at a time.

    Two sorted columns hold what has been merged; what is new waits in a small set of its own until it reaches 1/32 of
    that, so that merging costs a constant per document. Memory: 16 bytes per document at rest, 28 while merging.
    """

    MIN_RECENT = 1 << 14

    def __init__(self) -> None:
        self._high: Words = np.zeros(0, np.uint64)
        self._low: Words = np.zeros(0, np.uint64)
        self._recent: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._high) + len(self._recent)

    def add(self, digests: list[bytes]) -> NDArray[np.bool_]:
        """Take in digests of 16 bytes; whether each is new. The first of equal ones is. Shape: (N,)"""
        words = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
        merged = self._is_merged(words[:, 0], words[:, 1])
        fresh = np.zeros(len(digests), np.bool_)
        for number in np.flatnonzero(~merged):
            digest = digests[number]
            if digest not in self._recent:
                self._recent.add(digest)
                fresh[number] = True
        if len(self._recent) > max(self.MIN_RECENT, len(self._high) // 32):
            self._merge()
        return fresh

    def _is_merged(self, high: Words, low: Words) -> NDArray[np.bool_]:
        known = np.zeros(len(high), np.bool_)
        if not len(self._high):
            return known
        position = np.searchsorted(self._high, high)
        inside = position < len(self._high)
        while True:  # once, but for digests of equal first half
            same = inside & (self._high[np.minimum(position, len(self._high) - 1)] == high)
            if not same.any():
                return known
            known |= same & (self._low[np.minimum(position, len(self._low) - 1)] == low)
            position = position + 1
            inside = same & ~known & (position < len(self._high))

    def _merge(self) -> None:
        words = np.frombuffer(b"".join(self._recent), "<u8").reshape(-1, 2)
        self._recent = set()
        words = words[np.argsort(words[:, 0], kind="stable")]
        position = np.searchsorted(self._high, words[:, 0])
        self._high = np.insert(self._high, position, words[:, 0])
        self._low = np.insert(self._low, position, words[:, 1])
