"""Approximate search in a graph of neighbours (HNSW) by faiss-cpu, for those who have it: pip install faiss-cpu.

Source: Johnson et al. 2017 (arXiv 1702.08734); Malkov & Yashunin 2018 (arXiv 1603.09320).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pretune.errors import DataError, MissingPackageError
from pretune.search.backend import Backend, Settings
from pretune.search.vectors import Rows, StoredVectors, Vectors

FILE = "vectors.faiss"
_CONNECTIVITY, _EXPANSION_ADD, _EXPANSION = 32, 128, 256


class Faiss(Backend):
    """A graph of neighbours, with vectors in single precision.

    Args:
        index: of faiss.
    """

    library = "faiss"

    def __init__(self, stored: StoredVectors, index: Any, expansion: int) -> None:
        super().__init__(stored)
        self._index, self._expansion = index, expansion

    @classmethod
    def build(cls, stored: StoredVectors, folder: Path, settings: Settings) -> dict[str, Any]:
        """Writes the graph; `settings` may say `expansion`, rows that a query looks at."""
        library = _library()
        threads = library.omp_get_max_threads()
        library.omp_set_num_threads(1)  # so that the same vectors give the same bytes
        try:
            index = library.IndexHNSWFlat(stored.width, _CONNECTIVITY, library.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = _EXPANSION_ADD
            for _, block in stored.parts(4096):
                index.add(block)
        finally:
            library.omp_set_num_threads(threads)
        library.write_index(index, str(folder / FILE))
        return {"expansion": int(settings.get("expansion") or _EXPANSION), "passages": stored.count}

    @classmethod
    def open(cls, stored: StoredVectors, folder: Path, settings: Settings) -> Faiss:
        """Reads the graph.

        Raises:
            DataError: a graph of other vectors, or none.
        """
        path = folder / FILE
        try:
            index = _library().read_index(str(path))
        except RuntimeError:
            raise DataError(f"{path}: cannot be read by faiss; build it again: pretune index compact INDEX") from None
        if (index.ntotal, index.d) != (stored.count, stored.width):
            raise DataError(
                f"{path}: is no graph of {stored.count:,} vectors of {stored.width} numbers; build it again"
            )
        return cls(stored, index, int(settings["expansion"]))

    def nearest(self, query: Vectors, count: int) -> Rows:
        """What the graph finds."""
        self._index.hnsw.efSearch = max(self._expansion, count)
        _, rows = self._index.search(query[None], count)
        return np.asarray(rows[0][rows[0] >= 0], np.int64)


def _library() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingPackageError(
            "--backend faiss needs the package faiss-cpu: pip install faiss-cpu, or --backend usearch"
        ) from None
    return faiss
