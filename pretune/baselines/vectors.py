"""Logistic regression on the vectors of a model that does not learn: a linear head in closed form.

The vectors are centred and scaled by one number first, which does not turn them; both are folded into the weights, so
that what is fitted applies to the vectors as the model gives them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pretune.baselines.linear import LinearClassifier, choose_strength, fit_linear

STRENGTHS = (1.0, 10.0, 100.0)
_CHOOSING = 4000  # examples of those that choose the strength


def fit_vectors(
    vectors: NDArray[np.float32],
    labels: Sequence[str],
    *,
    strength: float | None = None,
    order: Sequence[str] | None = None,
    seed: int = 0,
) -> LinearClassifier:
    """Fits logistic regression on vectors.

    Args:
        vectors: one for each example, such as `Model.embed` gives.
        labels: one for each.
        strength: inverse of the penalty's weight on vectors of length 1; by default what is best on held-out parts.
        order: of the labels; by default sorted.
        seed: of the held-out parts.

    Shape:
        vectors: (n, d)

    Raises:
        DataError: fewer than two labels.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    scale = float(np.sqrt(np.square(centred).sum(axis=1).mean())) or 1.0
    scaled = centred / scale
    if strength is None:
        chosen = np.random.default_rng(seed).permutation(len(scaled))[:_CHOOSING]
        strength = choose_strength(scaled[chosen], [labels[n] for n in chosen.tolist()], STRENGTHS, seed)
    fitted = fit_linear(scaled, labels, strength, order)
    weight = fitted.weight.astype(np.float64) / scale
    bias = fitted.bias - weight @ mean
    return LinearClassifier(fitted.labels, weight.astype(np.float32), bias.astype(np.float32))
