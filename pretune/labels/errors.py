"""Labels that are probably wrong, by a mixture of right and wrong labels over out-of-fold probabilities.

    p(given) = (1 - w) p(given = true) + w (1 - p(given = true)) / (C - 1)        w: the share of wrong labels

A classifier that did not learn from an example gives it the probability `p` of each label, sharpened or flattened by a
temperature. Temperature and share are those by which the given labels are most likely, and each label's probability
of being wrong is the second part of the sum over both. So the surer a classifier is, the less likely a given label has
to be, and the more labels there are, the less an unlikely one says.

Confident learning (Northcutt et al. 2021, arXiv 1911.00068, section 3) holds the probability of another label against
the mean of those that have it instead, below which half of all rows are where a classifier is equally sure of all: on
seven public sets with 3 and 10 % of the labels replaced F1 is 0.49 with it, 0.58 with the mixture (benchmarks/LOG.md).
The order is by the probability of the label that an example has, which finds more planted errors than the margin to
the suggestion does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretune.baselines.linear import softmax

_LISTED = 0.25  # looking at a right label costs a third of overlooking a wrong one
_SHARES = np.geomspace(0.03, 0.45, 24)  # public sets hold 3.3 % of wrong labels on average (arXiv 2103.14749)
_TEMPERATURES = np.geomspace(0.125, 4.0, 31)


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
    others = probabilities.copy()
    others[rows, own] = -1.0
    best = others.argmax(axis=1)
    is_wrong = wrong_chances(probabilities, own) > _LISTED
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


def wrong_chances(probabilities: NDArray[np.float64], own: NDArray[np.int64]) -> NDArray[np.float64]:
    """How probable it is that each label is wrong.

    Args:
        probabilities: out of fold, of each example and label.
        own: column of the label that each example has.

    Shape:
        probabilities: (n, C); own: (n,); return: (n,)
    """
    logits = np.log(np.maximum(probabilities, 1e-12))
    best = -np.inf
    chances = np.zeros(len(own))
    for temperature in _TEMPERATURES:
        right = softmax(logits / temperature)[np.arange(len(own)), own]
        spread = (1 - right) / max(probabilities.shape[1] - 1, 1)
        for share in _SHARES:
            likelihood = (1 - share) * right + share * spread
            if (total := np.log(likelihood).sum()) > best:
                best, chances = total, share * spread / likelihood
    return chances


def _differing(labels: Sequence[str], groups: Sequence[str]) -> list[bool]:
    """Whether a copy of an example has another label."""
    names: dict[str, set[str]] = {}
    for group, label in zip(groups, labels, strict=False):
        names.setdefault(group, set()).add(label)
    return [len(names[group]) > 1 for group in groups] or [False] * len(labels)
