"""Which texts are worth labelling next: those that a classifier is least sure of, and that differ from each other.

Of the least sure ones, twenty times as many as are wanted, clusters are made, as many as are wanted, and of each the
one nearest to its centre is chosen, so that no odd text is; without a labelled text, clusters are made of all.

Source: Zhdanov 2019, "Diverse mini-batch active learning" (arXiv 1901.05954); Hacohen et al. 2022, "Active learning on
a budget" (arXiv 2202.02794), for the beginning.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretune.baselines.linear import Features

_POOL = 20  # candidates for each that is chosen


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
    distances, sizes = clusters.transform(features[pool]), np.bincount(clusters.labels_, minlength=count)
    distances[clusters.labels_[:, None] != np.arange(count)] = np.inf  # each text is of one cluster
    chosen = pool[distances.argmin(axis=0)[sizes > 0]]
    order = -sizes[sizes > 0] if probabilities is None else doubt[chosen]
    return np.asarray(chosen[np.argsort(order, kind="stable")], np.int64)


def margins(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much more probable the first label of each row is than the second. Shape: (n, C) -> (n,)"""
    ordered = np.sort(probabilities, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])
