"""What finds the nearest of many vectors; a variant is one file of `search/backends/`.

A variant that approximates proposes rows; their scores are always those of the stored vectors. What a filter or a
deletion leaves out is never proposed: where it leaves little, that little is searched row by row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError
from pretune.search.vectors import Rows, StoredVectors, Vectors
from pretune.search.words import best_rows

Settings = Mapping[str, Any]
_FEW = 0.1  # of all rows: as few are searched one by one
_SPARE = 1.5  # times as many rows are asked for as a filter needs on the average


class Backend(ABC):
    """Finds the vectors nearest to a query.

    Attributes:
        stored: the vectors of the index.
        library: the package that does the work, whose version is recorded; empty for numpy.
    """

    library: ClassVar[str] = ""

    def __init__(self, stored: StoredVectors) -> None:
        self.stored = stored

    @classmethod
    @abstractmethod
    def build(cls, stored: StoredVectors, folder: Path, settings: Settings) -> dict[str, Any]:
        """Writes files into a folder, which may stay empty; the same vectors give the same bytes.

        Args:
            settings: what the user says; empty for what was measured to be good.

        Returns:
            what `open` needs to know, as plain values; goes into the index's JSON.
        """

    @classmethod
    @abstractmethod
    def open(cls, stored: StoredVectors, folder: Path, settings: Settings) -> Backend:
        """Reads what `build` wrote.

        Raises:
            DataError: it does not belong to these vectors.
        """

    @abstractmethod
    def nearest(self, query: Vectors, count: int) -> Rows:
        """Rows that are probably the nearest, in any order, `count` or more of them where there are as many.

        Shape:
            query: (width,) of unit length; return: (k,)
        """

    def search(self, query: Vectors, count: int, allowed: NDArray[np.bool_] | None = None) -> tuple[Rows, Vectors]:
        """The nearest rows, best first, and their cosines; of equal ones the first.

        Shape:
            query: (width,) of unit length; allowed: (n,); return: at most (count,) each

        Raises:
            DataError: the query's vector has another width.
        """
        if query.shape != (self.stored.width,):
            raise DataError(
                f"the query's vector has the shape {query.shape}, those of the index {self.stored.width} numbers; "
                "search with the model that made the index"
            )
        if allowed is None:
            return self._scored(self.nearest(query, min(count, self.stored.count)), query, count)
        share = float(allowed.mean()) if len(allowed) else 0.0
        if share > _FEW:
            rows = self.nearest(query, min(self.stored.count, int(count / share * _SPARE) + count))
            rows = rows[allowed[rows]]
            if len(rows) >= count:
                return self._scored(rows, query, count)
        return self._scored(np.flatnonzero(allowed), query, count)

    def _scored(self, rows: Rows, query: Vectors, count: int) -> tuple[Rows, Vectors]:
        rows = np.sort(rows)
        best, scores = best_rows(self.stored.rows(rows) @ query, count)
        return rows[best], scores
