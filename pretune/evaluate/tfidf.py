"""What a TF-IDF classifier says of the examples of a classification."""

from __future__ import annotations

from collections.abc import Sequence

from pretune.baselines.tfidf import TfidfClassifier
from pretune.errors import DataError
from pretune.tasks.classification import ClassificationExample
from pretune.tasks.shared.calibration import rescale
from pretune.tasks.shared.predictions import Prediction


def answer_by_tfidf(
    classifier: TfidfClassifier,
    examples: Sequence[ClassificationExample],
    temperature: float = 1.0,
    threshold: float | None = None,
) -> list[Prediction]:
    """What a classifier says of examples.

    Args:
        temperature: that logits are divided by.
        threshold: probability below which a prediction abstains.

    Raises:
        DataError: a pair without a second text.
    """
    seconds = None
    if classifier.ngrams.is_paired:
        lacking = next((example for example in examples if example.second is None), None)
        if lacking is not None:
            raise DataError(f"{lacking.origin}: this model was trained on pairs, and there is no second text; give it")
        seconds = [str(example.second) for example in examples]
    probabilities = classifier.probabilities([example.text for example in examples], seconds)
    rows = rescale(probabilities, temperature)
    return [
        Prediction(classifier.labels[n], dict(zip(classifier.labels, row, strict=True))).judged_by(threshold)
        for n, row in zip(rows.argmax(axis=1).tolist(), rows.tolist(), strict=True)
    ]
