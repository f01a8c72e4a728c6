"""Checks the labels of examples, and chooses texts to label next: what the command line and Python share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.baselines.folder import empty_tokenizer
from pretune.errors import UsageError
from pretune.labels.choice import choose_next, margins
from pretune.labels.errors import find_errors
from pretune.labels.features import Embed, describe_texts, out_of_fold
from pretune.tasks.classification import Classification, ClassificationExample, count_labels
from pretune.text.readers.labelled import LabelledConfig
from pretune.train.holdout import text_key


def reader(columns: LabelledConfig) -> Classification:
    """The task that reads records of labelled or unlabelled texts."""
    return Classification(Classification.Config(columns=columns), empty_tokenizer().vocabulary)


def check_examples(
    examples: Sequence[ClassificationExample],
    embed: Embed | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    every_row: bool = False,
) -> list[dict[str, object]]:
    """The labels that are probably wrong, the least probable first.

    Args:
        embed: gives vectors of texts, beside their TF-IDF.
        folds: parts, each of which is predicted by a classifier that learned from the others.
        seed: of the folds.
        every_row: all examples in this order, and not only those that are probably wrong.

    Returns:
        For each: `index` of the example, `label`, `suggestion`, `probability` of the label,
        `suggestion_probability`, `reason` (`model`, or `copy` where a copy of the text has another label).

    Raises:
        UsageError: fewer than two folds.
        DataError: an example without a label, or one label in all.
    """
    if folds < 2:
        raise UsageError(f"folds = {folds}: expected 2 or more")
    count_labels(examples)
    labels, groups = [str(example.label) for example in examples], [text_key(example) for example in examples]
    probabilities, order = out_of_fold(describe_texts(examples, embed), labels, groups, folds, seed)
    return [
        {
            "index": error.index,
            "label": error.label,
            "suggestion": error.suggestion,
            "probability": error.probability,
            "suggestion_probability": error.suggestion_probability,
            "reason": error.reason,
        }
        for error in find_errors(probabilities, labels, order, groups, every_row=every_row)
    ]


def choose_examples(
    examples: Sequence[ClassificationExample],
    labelled: Sequence[ClassificationExample],
    embed: Embed | None = None,
    *,
    count: int = 20,
    seed: int = 0,
) -> list[dict[str, object]]:
    """The texts to label next, the least sure first; without labelled ones, the most typical.

    Args:
        examples: without labels; those that are also among the labelled ones, and copies, are left out.
        labelled: from which a classifier learns.
        embed: gives vectors of texts, beside their TF-IDF.
        count: how many texts.
        seed: of the clusters by which they differ.

    Returns:
        For each: `index` of the example, and where there are labelled ones `guess`, its `probability`, and `margin`
        to the next label.

    Raises:
        UsageError: a count below 1.
        DataError: a labelled example without a label, or one label in all.
    """
    if count < 1:
        raise UsageError(f"count = {count}: expected 1 or more")
    known = {text_key(example) for example in labelled}
    new: dict[str, int] = {}
    for n, example in enumerate(examples):
        if (key := text_key(example)) not in known:
            new.setdefault(key, n)
    index = np.array(list(new.values()), np.int64)
    if not len(index):
        return []
    kinds = describe_texts([*labelled, *(examples[n] for n in index.tolist())], embed)
    rows = kinds[-1].rows[len(labelled) :]
    if not labelled:
        return [{"index": int(index[row])} for row in choose_next(rows, None, count, seed)]
    count_labels(labelled)
    labels = [str(example.label) for example in labelled]
    models = [features.fit(labels, np.arange(len(labelled)), seed) for features in kinds]
    tables = [model.probabilities(each.rows[len(labelled) :]) for model, each in zip(models, kinds, strict=True)]
    probabilities = np.mean(tables, axis=0)
    doubt = margins(probabilities)
    return [
        {
            "index": int(index[row]),
            "guess": models[0].labels[int(probabilities[row].argmax())],
            "probability": float(probabilities[row].max()),
            "margin": float(doubt[row]),
        }
        for row in choose_next(rows, probabilities, count, seed)
    ]
