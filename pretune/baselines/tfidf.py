"""Logistic regression on TF-IDF, a classifier of texts or of pairs that knows no language model.

Source: Wang and Manning 2012, "Baselines and bigrams", https://aclanthology.org/P12-2018, for words and pairs of words
as what a model must beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pretune.baselines.linear import STRENGTH, Floats, LinearClassifier, fit_linear
from pretune.baselines.ngrams import Ngrams, Unit
from pretune.errors import DataError


@dataclass(frozen=True)
class TfidfClassifier:
    """A fitted classifier.

    Attributes:
        ngrams: what it sees of a text.
        linear: what it makes of it.
    """

    ngrams: Ngrams
    linear: LinearClassifier

    @property
    def labels(self) -> list[str]:
        """What it decides among."""
        return self.linear.labels

    def probabilities(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> Floats:
        """How probable each label is for each text. Shape: return: (n, C)"""
        return self.linear.probabilities(self.ngrams.features(texts, seconds))


def fit_tfidf(
    texts: Sequence[str],
    labels: Sequence[str],
    seconds: Sequence[str] | None = None,
    *,
    strength: float = STRENGTH,
    unit: Unit | None = None,
    order: Sequence[str] | None = None,
) -> TfidfClassifier:
    """Fits TF-IDF and logistic regression.

    Args:
        texts: of the examples.
        labels: one for each.
        seconds: the second text of each, for pairs.
        strength: inverse of the penalty's weight (`C` of scikit-learn).
        unit: of the n-grams; by default characters for Chinese, and words for other languages.
        order: of the labels; by default sorted.

    Raises:
        DataError: no text has a word, or fewer than two labels.
    """
    try:
        ngrams = Ngrams.fit(texts, seconds, unit)
    except ValueError:  # of scikit-learn: an empty vocabulary
        raise DataError("no text has a word for TF-IDF; give texts with words, or train a model") from None
    return TfidfClassifier(ngrams, fit_linear(ngrams.features(texts, seconds), labels, strength, order))
