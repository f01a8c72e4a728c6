"""Scores of pairs of texts by their vectors: cosines in the order of labels, or which text each one finds.

pairs with labels     -> Spearman's and Pearson's correlation of labels and cosines
pairs without labels  -> each first text among all second ones -> nDCG, recall, reciprocal rank by ir-measures
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pretune.metrics.ranking import MEASURES, score_rankings

RANKING_METRIC = MEASURES[0]
_DEPTH = 100  # of a ranking: no measure looks further
_CHUNK = 1 << 24  # cosines that are there at once


class PairVectors(NamedTuple):
    """The vectors of a window of each text of a pair. Shape: (width,) each"""

    first: NDArray[np.float32]
    second: NDArray[np.float32]


class PairCosine(float):
    """The cosine of a pair, which has the vectors that it is made of.

    Attributes:
        vectors: of the two texts; None where it was made without.
    """

    vectors: PairVectors | None

    def __new__(cls, cosine: float, vectors: PairVectors | None = None) -> Self:
        own = super().__new__(cls, cosine)
        own.vectors = vectors
        return own

    @classmethod
    def of(cls, first: NDArray[np.floating], second: NDArray[np.floating]) -> Self:
        """The cosine of two vectors; 0 where one has no length. Shape: (width,) each"""
        wide = first.astype(np.float64), second.astype(np.float64)
        size = float(np.linalg.norm(wide[0]) * np.linalg.norm(wide[1]))
        vectors = PairVectors(first.astype(np.float32), second.astype(np.float32))
        return cls(float(np.dot(*wide)) / size if size else 0.0, vectors)


def correlations(values: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """Correlations by rank and by value; NaN where all of one side are alike."""
    from scipy import stats  # only scoring needs it

    if min(len(set(values)), len(set(truth))) < 2:  # scipy gives the same, and warns in words of its own
        return {"spearman": math.nan, "pearson": math.nan}
    return {
        "spearman": float(stats.spearmanr(values, truth).statistic),
        "pearson": float(stats.pearsonr(values, truth).statistic),
    }


def ranking_scores(vectors: Sequence[PairVectors], firsts: Sequence[str], seconds: Sequence[str]) -> dict[str, float]:
    """How well the first text of each pair finds its second one among those of all pairs.

    Pairs with the same first text are one query, with all of their second texts to be found; the same second text
    counts once.

    Raises:
        MissingPackageError: ir-measures is not installed.
    """
    ids = {text: n for n, text in enumerate(dict.fromkeys(seconds))}
    queries = {text: n for n, text in enumerate(dict.fromkeys(firsts))}
    judgements: dict[str, dict[str, int]] = {str(n): {} for n in queries.values()}
    for first, second in zip(firsts, seconds, strict=True):
        judgements[str(queries[first])][str(ids[second])] = 1
    by_second = dict(zip(reversed(seconds), reversed(vectors), strict=True))
    by_first = dict(zip(reversed(firsts), reversed(vectors), strict=True))
    table = _unit(np.stack([by_second[text].second for text in ids]))
    query_vectors = _unit(np.stack([by_first[text].first for text in queries]))
    rankings: dict[str, list[str]] = {}
    step = max(1, _CHUNK // len(table))
    for start in range(0, len(query_vectors), step):
        cosines = query_vectors[start : start + step] @ table.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :_DEPTH]
        rankings |= {str(start + n): [str(each) for each in row] for n, row in enumerate(best.tolist())}
    return score_rankings(rankings, judgements)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors at length 1, zeros as they are. Shape: (n, width) -> same"""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), np.float32)
