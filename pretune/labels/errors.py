"""Labels that are probably wrong, by confident learning on out-of-fold probabilities.

An example counts as one of another label where a classifier that did not learn from it gives that label at least the
probability that it gives, on average, to the examples which have it. So a label on which the classifier is never sure
is judged by its own measure.

Source: Northcutt et al. 2021, "Confident learning" (arXiv 1911.00068), section 3. The order is by the probability of
the label that an example has, which finds more planted errors than the margin to the suggestion does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelError:
    """A label that is probably wrong.

    Attributes:
        index: of the example.
        label: that it has.
        suggestion: the label that is most probable in its place.
        probability: of the label that it has.
        suggestion_probability: of the suggestion.
        reason: `model`, where a classifier is sure of another label; `copy`, where a copy of the text has another.
    """

    index: int
    label: str
    suggestion: str
    probability: float
    suggestion_probability: float
    reason: str = "model"


def find_errors(
    probabilities: NDArray[np.float64],
    labels: Sequence[str],
    order: Sequence[str],
    groups: Sequence[str] = (),
    *,
    every_row: bool = False,
) -> list[LabelError]:
    """The labels that look wrong, the least probable first; copies of one text with different labels come before all.

    Args:
        probabilities: out of fold, of each example and label.
        labels: that the examples have.
        order: the labels in the order of the probabilities.
        groups: examples of one name are copies of each other.
        every_row: all examples, in this order, and not only those that are probably wrong.

    Shape:
        probabilities: (n, C)
    """
    number = {label: n for n, label in enumerate(order)}
    own = np.array([number[label] for label in labels])
    rows = np.arange(len(own))
    thresholds = np.array([probabilities[own == n, n].mean() if (own == n).any() else 1.0 for n in range(len(order))])
    others = probabilities.copy()
    others[rows, own] = -1.0
    is_sure = (others >= thresholds) & (others >= 0)
    best = np.where(is_sure.any(axis=1), np.where(is_sure, others, -1.0).argmax(axis=1), others.argmax(axis=1))
    is_wrong = is_sure.any(axis=1) & (others.max(axis=1) > probabilities[rows, own])
    differing = _differing(labels, groups)
    out = [
        LabelError(
            n,
            labels[n],
            order[int(best[n])],
            float(probabilities[n, own[n]]),
            float(probabilities[n, best[n]]),
            "copy" if differing[n] else "model",
        )
        for n in range(len(labels))
        if every_row or is_wrong[n] or differing[n]
    ]
    return sorted(out, key=lambda error: (error.reason != "copy", error.probability, error.index))


def _differing(labels: Sequence[str], groups: Sequence[str]) -> list[bool]:
    """Whether a copy of an example has another label."""
    names: dict[str, set[str]] = {}
    for group, label in zip(groups, labels, strict=False):
        names.setdefault(group, set()).add(label)
    return [len(names[group]) > 1 for group in groups] or [False] * len(labels)
