"""Logistic regression, on whatever features: what is fitted, and how its strength of regularization is chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Features: TypeAlias = "NDArray[np.float32] | NDArray[np.float64] | csr_array"
"""A row for each text, dense or sparse."""

STRENGTH = 10.0  # `C` of scikit-learn, which suits TF-IDF of 300 to 10,000 texts within half a point
_ITERATIONS = 300
_FOLDS = 3


@dataclass(frozen=True)
class LinearClassifier:
    """Scores of labels that are linear in the features.

    Attributes:
        labels: in the order of the scores.
        weight: of each label and feature.
        bias: of each label.

    Shape:
        weight: (C, F); bias: (C,)
    """

    labels: list[str]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, features: Features) -> Floats:
        """The score of each label. Shape: features: (n, F); return: (n, C)"""
        return np.asarray(features @ self.weight.T.astype(np.float64)) + self.bias

    def probabilities(self, features: Features) -> Floats:
        """How probable each label is. Shape: features: (n, F); return: (n, C)"""
        return softmax(self.logits(features))


def softmax(logits: Floats) -> Floats:
    """Probabilities of rows of scores. Shape: (n, C) -> (n, C)"""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def fit_linear(
    features: Features, labels: Sequence[str], strength: float = STRENGTH, order: Sequence[str] | None = None
) -> LinearClassifier:
    """Logistic regression with an L2 penalty.

    Args:
        features: a row for each label.
        strength: inverse of the penalty's weight.
        order: of the labels; by default sorted. One that no row has is never predicted.

    Raises:
        DataError: fewer than two labels, or one that `order` lacks.
    """
    from sklearn.linear_model import LogisticRegression  # 100 MB with what it imports

    names = list(order) if order is not None else sorted(set(labels))
    numbers = {label: number for number, label in enumerate(names)}
    unknown = next((label for label in labels if label not in numbers), None)
    if unknown is not None:
        raise DataError(f"label {unknown!r} is none of {', '.join(names[:20])}; correct the label")
    targets = np.array([numbers[label] for label in labels])
    present = np.unique(targets)
    if len(present) < 2:
        raise DataError(f"all {len(targets)} examples have the label {labels[0]!r}; give two different labels at least")
    model = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(features, targets)
    weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(present) == 2:  # scikit-learn scores the second of two labels alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full_weight = np.zeros((len(names), weight.shape[1]), np.float32)
    full_bias = np.full(len(names), -1e4, np.float32)
    full_weight[present], full_bias[present] = weight, bias
    return LinearClassifier(names, full_weight, full_bias)


def choose_strength(features: Features, labels: Sequence[str], strengths: Sequence[float], seed: int = 0) -> float:
    """The strength whose held-out predictions are right most often, by three folds; of equals, the least loss.

    Args:
        strengths: to choose among; the middle one where a label has one example alone.
        seed: of the folds.
    """
    if min(Counter(labels).values()) < 2 or len(strengths) < 2:
        return strengths[len(strengths) // 2]
    folds = deal_folds(labels, _FOLDS, seed)
    truth = np.array(labels)

    def quality(strength: float) -> tuple[float, float]:
        right, loss = 0, 0.0
        for fold in range(_FOLDS):
            held = folds == fold
            if not held.any() or len(set(truth[~held].tolist())) < 2:
                continue
            model = fit_linear(features[~held], truth[~held].tolist(), strength, sorted(set(labels)))
            columns = np.array([model.labels.index(label) for label in truth[held].tolist()])
            probabilities = model.probabilities(features[held])
            right += int((probabilities.argmax(axis=1) == columns).sum())
            loss -= float(np.log(np.maximum(probabilities[np.arange(len(columns)), columns], 1e-12)).sum())
        return right, -loss

    return max(strengths, key=quality)


def deal_folds(
    labels: Sequence[str], folds: int, seed: int = 0, groups: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """The fold of each example, those of one label dealt one by one, so that each fold has its part of each label.

    Args:
        groups: what must stay together, such as copies of a text.

    Shape:
        return: (n,)
    """
    names = [str(n) for n in range(len(labels))] if groups is None else groups
    first: dict[str, str] = {}
    for name, label in zip(names, labels, strict=True):
        first.setdefault(name, label)
    rank = dict(zip(first, np.random.default_rng(seed).permutation(len(first)).tolist(), strict=True))
    order = sorted(first, key=lambda name: (first[name], rank[name]))
    fold = {name: position % folds for position, name in enumerate(order)}
    return np.array([fold[name] for name in names], np.int64)
