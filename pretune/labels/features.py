"""What texts are described by: their TF-IDF, or the vectors of a model; and classifiers on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pretune.baselines.linear import STRENGTH, Features, LinearClassifier, choose_strength, deal_folds, fit_linear
from pretune.baselines.ngrams import Ngrams
from pretune.baselines.vectors import STRENGTHS
from pretune.errors import DataError
from pretune.tasks.classification import ClassificationExample

Embed: TypeAlias = Callable[[list[str]], NDArray[np.float32]]
"""Gives a vector for each text, such as `Model.embed`."""


class TextFeatures:
    """The features of some texts, all described alike.

    Args:
        rows: of the features.
        is_dense: they are vectors of a model.
    """

    def __init__(self, rows: Features, *, is_dense: bool) -> None:
        self.rows, self.is_dense = rows, is_dense

    def strength(self, labels: Sequence[str], index: NDArray[np.int64], seed: int) -> float:
        """How strongly a classifier on these features is to fit. Shape: index: (n,), the rows of the labels."""
        return choose_strength(self.rows[index], labels, STRENGTHS, seed) if self.is_dense else STRENGTH

    def fit(self, labels: Sequence[str], index: NDArray[np.int64], seed: int = 0) -> LinearClassifier:
        """A classifier that learned from some rows. Shape: index: (n,), the rows of the labels."""
        return fit_linear(self.rows[index], labels, self.strength(labels, index, seed))


def describe_texts(examples: Sequence[ClassificationExample], embed: Embed | None = None) -> list[TextFeatures]:
    """The ways in which texts are described: by their TF-IDF, and by the vectors of a model where one is given.

    What two kinds of features say is right more often, on average, than either.

    Args:
        examples: with labels or without.

    Raises:
        DataError: no text has a word, and there is no model.
    """
    texts = [example.text for example in examples]
    seconds = [example.second or "" for example in examples] if any(example.second for example in examples) else None
    try:
        kinds = [TextFeatures(Ngrams.fit(texts, seconds).features(texts, seconds), is_dense=False)]
    except ValueError:  # of scikit-learn: an empty vocabulary
        if embed is None:
            raise DataError("no text has a word for TF-IDF; name a model with --model") from None
        kinds = []
    if embed is None:
        return kinds
    vectors = embed(texts).astype(np.float64)
    if seconds is not None:
        others = embed([second or " " for second in seconds]).astype(np.float64)
        vectors = np.concatenate([vectors, others, vectors * others, np.abs(vectors - others)], axis=1)
    centred = vectors - vectors.mean(axis=0)
    scale = float(np.sqrt(np.square(centred).sum(axis=1).mean())) or 1.0
    return [*kinds, TextFeatures(centred / scale, is_dense=True)]


def out_of_fold(
    kinds: Sequence[TextFeatures], labels: Sequence[str], groups: Sequence[str], folds: int = 5, seed: int = 0
) -> tuple[NDArray[np.float64], list[str]]:
    """The probabilities that classifiers give each example which did not learn from it, nor from its copies.

    Args:
        kinds: of features, whose classifiers' probabilities are averaged.
        labels: of all rows.
        groups: what must stay together, such as copies of a text.
        folds: parts, each of which is predicted by a classifier of the others.

    Returns:
        Of each example and label; and the labels, in their order.

    Raises:
        DataError: fewer than two labels are left to learn from.

    Shape:
        return: (n, C)
    """
    order = sorted(set(labels))
    fold = deal_folds(labels, folds, seed, groups)
    out = np.zeros((len(labels), len(order)))
    for features in kinds:
        strength = features.strength(labels, np.arange(len(labels)), seed)
        for number in range(folds):
            held = fold == number
            if held.any():
                known = [label for label, is_held in zip(labels, held.tolist(), strict=True) if not is_held]
                model = fit_linear(features.rows[~held], known, strength, order)
                out[held] += model.probabilities(features.rows[held]) / len(kinds)
    return out, order
