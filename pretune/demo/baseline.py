"""The TF-IDF baseline of the demo: a bag of words trained on the same labels."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pretune.demo.labels import Pair

STRENGTHS = (1.0, 3.0, 10.0, 30.0)  # values of `C`; the best on the development pairs is used


def tfidf(train: Sequence[Pair], development: Sequence[Pair], test: Sequence[Pair]) -> float:
    """Returns the test accuracy of logistic regression on TF-IDF of words and word pairs.

    Args:
        development: pairs by which the regularization is chosen.
    """
    (words, labels), held, tested = _columns(train), _columns(development), _columns(test)
    fitted = []
    for strength in STRENGTHS:
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=strength, max_iter=2000)
        )
        model.fit(words, labels)
        fitted.append((float(model.score(*held)), model))
    best = max(fitted, key=lambda pair: pair[0])[1]
    return float(best.score(*tested))


def _columns(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    return [f"{first}\n{second}" for first, second, _ in pairs], [label for *_, label in pairs]
