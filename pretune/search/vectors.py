"""The vectors of an index as they lie on the disk: memory-mapped arrays of unit length, one for each segment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class StoredVectors:
    """The vectors of all passages, in their order.

    Attributes:
        blocks: (n, width) each, of unit length; rows of deleted passages are among them.
    """

    blocks: Sequence[Vectors]

    @property
    def bounds(self) -> Rows:
        """The first row of each block, and the number of all. Shape: return: (blocks + 1,)"""
        return np.cumsum([0, *(len(block) for block in self.blocks)])

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.bounds[-1])

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.blocks[0].shape[1])

    def products(self, query: Vectors) -> Vectors:
        """The cosine of a query of unit length and every vector. Shape: query: (width,); return: (n,)"""
        return np.concatenate([block @ query for block in self.blocks])

    def rows(self, rows: Rows) -> Vectors:
        """Some vectors. Shape: rows: (k,); return: (k, width)"""
        out = np.empty((len(rows), self.width), np.float32)
        numbers = np.searchsorted(self.bounds, rows, side="right") - 1
        for number in np.unique(numbers):
            chosen = numbers == number
            out[chosen] = self.blocks[number][rows[chosen] - self.bounds[number]]
        return out

    def parts(self, size: int, start: int = 0) -> Iterator[tuple[int, Vectors]]:
        """Vectors from a row on, at most `size` at a time, with the row of the first."""
        for first, block in zip(self.bounds.tolist(), self.blocks, strict=False):
            for row in range(max(0, start - first), len(block), size):
                yield first + row, np.ascontiguousarray(block[row : row + size])
