"""Approximate search in a graph of neighbours (HNSW) by usearch; the default for many passages.

The graph holds vectors in half precision, is built by one thread, so that the same vectors give the same bytes, and
grows when passages are added. How widely a query looks around is measured when it is built: as widely as finds 0.998
of the ten nearest of vectors halfway between stored ones, which are easier than new ones: where 0.9935 of theirs are
found, 0.983 of the new ones' are, where 0.9995, 0.996 (benchmarks/LOG.md).

Source: Malkov & Yashunin 2018 (arXiv 1603.09320).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from pretune.errors import DataError, MissingPackageError
from pretune.search.backend import Backend, Settings
from pretune.search.vectors import Rows, StoredVectors, Vectors

FILE = "vectors.usearch"
_CONNECTIVITY, _EXPANSION_ADD = 16, 128
_WIDEST = 4096  # rows that a query looks at, at most
_RECALL = 0.998  # of the ten nearest, on a sample: the promise for new queries is 0.99
_SAMPLE = 500  # queries that measure
_BLOCK = 4096  # vectors that are added at once
_log = logging.getLogger("pretune")


class Usearch(Backend):
    """A graph of neighbours.

    Args:
        index: of usearch.
        expansion: rows that a query looks at.
    """

    library = "usearch"

    def __init__(self, stored: StoredVectors, index: Any, expansion: int) -> None:
        super().__init__(stored)
        self._index, self._expansion = index, expansion

    @classmethod
    def build(cls, stored: StoredVectors, folder: Path, settings: Settings) -> dict[str, Any]:
        """Writes the graph; `settings` may say `expansion`, rows that a query looks at, and `previous`, a graph of the
        first vectors, to which the others are added."""
        index = _new(stored.width)
        if previous := settings.get("previous"):
            index.load(str(Path(previous) / FILE))
        for row, block in stored.parts(_BLOCK, start=len(index)):
            index.add(np.arange(row, row + len(block), dtype=np.uint64), block, threads=1)
            if row // _BLOCK % 8 == 0 and row:
                _log.info("graph of neighbours: %s of %s passages", f"{row:,}", f"{stored.count:,}")
        index.save(str(folder / FILE))
        graph = cls(stored, index, int(settings.get("expansion") or 64))
        recall = graph.recall()
        while recall < _RECALL and "expansion" not in settings and graph._expansion < min(_WIDEST, stored.count):
            graph._expansion *= 2
            recall = graph.recall()
        return {"expansion": graph._expansion, "recall": round(recall, 4), "passages": stored.count}

    @classmethod
    def open(cls, stored: StoredVectors, folder: Path, settings: Settings) -> Usearch:
        """Reads the graph.

        Raises:
            DataError: a graph of other vectors.
        """
        path = folder / FILE
        library = _library()
        facts = library.Index.metadata(str(path))
        if facts is None or (facts["count_present"], facts["dimensions"]) != (stored.count, stored.width):
            raise DataError(f"{path}: is no graph of {stored.count:,} vectors of {stored.width} numbers; {_REMEDY}")
        index = _new(stored.width)
        index.view(str(path))
        return cls(stored, index, int(settings["expansion"]))

    def nearest(self, query: Vectors, count: int) -> Rows:
        """What the graph finds."""
        self._index.expansion_search = max(self._expansion, count)
        return np.asarray(self._index.search(query, count, threads=1).keys).astype(np.int64)

    def recall(self) -> float:
        """The share of the ten nearest rows that are found, for queries halfway between two stored vectors."""
        draw = np.random.default_rng(0)
        pairs = draw.integers(0, self.stored.count, (2, min(_SAMPLE, self.stored.count)))
        queries = self.stored.rows(pairs[0]) + self.stored.rows(pairs[1])
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        queries = (queries / np.maximum(lengths, 1e-12)).astype(np.float32)
        count = min(10, self.stored.count)
        scores = np.concatenate([block @ queries.T for block in self.stored.blocks])  # (n, sample)
        bounds = np.partition(scores, len(scores) - count, axis=0)[len(scores) - count]
        found = [self.stored.rows(self.nearest(query, count)) @ query for query in queries]
        hits = [np.count_nonzero(each >= bound - 1e-6) for each, bound in zip(found, bounds, strict=True)]
        return float(np.minimum(hits, count).mean() / count)


_REMEDY = "build it again: pretune index compact INDEX"


def _new(width: int) -> Any:
    return _library().Index(
        ndim=width, metric="ip", dtype="f16", connectivity=_CONNECTIVITY, expansion_add=_EXPANSION_ADD
    )


def _library() -> Any:
    try:
        from usearch import index
    except ImportError:
        raise MissingPackageError(
            "approximate search needs the package usearch: pip install 'pretune[search]', or --backend exact"
        ) from None
    return index
