"""What a bag of words reaches with the same labels."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pretune.demo.labels import Text

STRENGTHS = (1.0, 3.0, 10.0, 30.0)  # of the classifier, inverse regularization; the best on development labels counts


def tfidf(train: Sequence[Text], development: Sequence[Text], test: Sequence[Text]) -> float:
    """Test accuracy of TF-IDF of words and word pairs with logistic regression.

    Args:
        development: chooses the regularization.
    """
    (words, labels), held, asked = _columns(train), _columns(development), _columns(test)
    fitted = []
    for strength in STRENGTHS:
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=strength, max_iter=2000)
        )
        model.fit(words, labels)
        fitted.append((float(model.score(*held)), model))
    best = max(fitted, key=lambda pair: pair[0])[1]
    return float(best.score(*asked))


def _columns(texts: Sequence[Text]) -> tuple[list[str], list[str]]:
    return [text for text, _ in texts], [label for _, label in texts]
