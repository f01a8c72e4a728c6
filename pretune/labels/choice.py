"""Which texts are worth labelling next: those that a classifier is least sure of, and that differ from each other.

Of the least sure ones, ten times as many as are wanted, clusters are made, as many as are wanted, and of each the least
sure is chosen; without a labelled text, the most typical of each cluster of all.

Source: Zhdanov 2019, "Diverse mini-batch active learning" (arXiv 1901.05954); Hacohen et al. 2022, "Active learning on
a budget" (arXiv 2202.02794), for the beginning.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretune.baselines.linear import Features

_POOL = 10  # candidates for each that is chosen


def choose_next(
    features: Features, probabilities: NDArray[np.float64] | None, count: int, seed: int = 0
) -> NDArray[np.int64]:
    """The rows to label next, the least sure first.

    Args:
        features: of texts without labels.
        probabilities: of each row and label; None where nothing is labelled yet.
        count: how many are wanted.
        seed: of the clusters.

    Shape:
        features: (n, F); probabilities: (n, C); return: (at most count,)
    """
    from sklearn.cluster import KMeans  # 100 MB with what it imports

    rows = np.arange(features.shape[0])
    if count >= len(rows):
        return rows if probabilities is None else np.argsort(margins(probabilities), kind="stable")
    doubt = np.zeros(len(rows)) if probabilities is None else margins(probabilities)
    pool = rows if probabilities is None else np.argsort(doubt, kind="stable")[: _POOL * count]
    clusters = KMeans(count, n_init=1, random_state=seed).fit(features[pool])
    if probabilities is None:
        distances = clusters.transform(features[pool])
        best = [distances[:, n].argmin() for n in range(count)]
        sizes = np.bincount(clusters.labels_, minlength=count)
        return np.array(list(dict.fromkeys(pool[best[n]] for n in np.argsort(-sizes, kind="stable"))), np.int64)
    first = {int(label): int(row) for row, label in zip(pool[::-1], clusters.labels_[::-1], strict=True)}
    chosen = np.array(list(first.values()), np.int64)
    return chosen[np.argsort(doubt[chosen], kind="stable")]


def margins(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much more probable the first label of each row is than the second. Shape: (n, C) -> (n,)"""
    ordered = np.sort(probabilities, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])
