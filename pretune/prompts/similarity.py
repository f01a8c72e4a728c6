"""How alike texts are, by TF-IDF or by the vectors of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pretune.baselines.ngrams import Ngrams
from pretune.errors import DataError
from pretune.prompts.pool import Floats

Similarity = Callable[[Sequence[str]], Floats]


def by_tfidf(pool: Sequence[str]) -> Similarity:
    """By the cosine of TF-IDF vectors, whose words are those of the pool.

    Raises:
        DataError: no text of the pool has a word.
    """
    try:
        ngrams = Ngrams.fit(pool)
    except ValueError:  # of scikit-learn: an empty vocabulary
        raise DataError("no example has a word for TF-IDF; give examples with words") from None
    known = ngrams.features(pool).T.tocsc()

    def similarity(texts: Sequence[str]) -> Floats:
        return np.asarray((ngrams.features(texts) @ known).todense(), np.float64)

    return similarity


def by_vectors(pool: Sequence[str], embed: Callable[[Sequence[str]], Floats]) -> Similarity:
    """By the cosine of a model's vectors.

    Args:
        embed: gives the vectors of texts, (n, width).
    """

    def unit(texts: Sequence[str]) -> Floats:
        vectors = np.asarray(embed(texts), np.float64)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))

    known = unit(pool).T
    return lambda texts: unit(texts) @ known
